"""`Check`: one named property that a stage must have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """A property of a stage, ready to be run; `str` gives its name, so it makes a readable pytest id.

    Parameters
    ----------
    name : str
        The property, in words.
    body : callable
        Returns if the property holds; anything that it raises becomes an `AssertionError`.

    Examples
    --------
    >>> check = Check("even", lambda: require(3 % 2 == 0, "3 is odd"))
    >>> str(check)
    'even'
    >>> check()
    Traceback (most recent call last):
        ...
    AssertionError: 3 is odd
    """

    name: str
    body: Callable[[], None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Run the check.

        Raises
        ------
        AssertionError
            If the property does not hold; the message is a sentence.
        """
        try:
            self.body()
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"the check {self.name!r} met an unexpected {said(error)}") from error


def require(condition: bool, message: str) -> None:
    """Raise an `AssertionError` with this message unless the condition holds (``python -O`` does not remove it)."""
    if not condition:
        raise AssertionError(message)


def require_sentence(text: object, origin: str) -> None:
    """Require an error message that a person can act on: several words, not just a value.

    Raises
    ------
    AssertionError
        If the text is not a string of at least three words.
    """
    require(
        isinstance(text, str) and len(text.split()) >= 3,
        f"{origin} gives the reason {text!r}, which is not a sentence that says what would fit",
    )


def require_work(work: object, plane: str) -> None:
    """Require a count of multiplications that a reader can add up.

    Raises
    ------
    AssertionError
        If it is no whole number, or negative.
    """
    require(
        isinstance(work, int) and work >= 0,
        f"work for {plane!r} is {work!r}, where readers add up whole numbers of multiplications",
    )


def said(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}"
