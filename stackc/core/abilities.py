"""What some transforms can do beyond `Transform`: choose from data, be trained, have planes in common.

Each ability is a base class, and a transform has those that it derives from::

    class Seed(Trainable, Allocated, Calibrated, frozen=True): ...

Whoever needs an ability asks with `isinstance`, or with the functions at the end.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self, TypeGuard

import msgspec

from stackc.core.transform import NOTHING, Known, Transform, Weighted

if TYPE_CHECKING:
    from torch import Tensor


class Settling(Transform, frozen=True):
    """A transform whose result depends on data beyond one plane, or whose planes have shapes that only the data decides.

    As long as it is not `settled`, `plan` gives upper bounds, and `encode` refuses. The artifact stores settled values only.
    """

    @property
    @abc.abstractmethod
    def settled(self) -> bool:
        """Whether every choice is made, so that `encode` can run."""

    @abc.abstractmethod
    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        """Choose one settled value for each plane; ``planes`` may be walked several times and loads lazily."""


class Allocated(Settling, frozen=True):
    """A transform with a field that may be left to the rate allocation, as ``step: auto`` is."""

    @property
    @abc.abstractmethod
    def allocated(self) -> bool:
        """Whether no field is left to the rate allocation; what is not allocated is not settled."""

    @abc.abstractmethod
    def options(self, x: Tensor) -> Sequence[Self]:
        """The values that the rate allocation may choose from for a plane, the one with the fewest bytes first.

        For values that are not `allocated`. The choices may still have to be settled.
        """

    def encode_each(self, x: Tensor, options: Sequence[Self], known: Known = NOTHING) -> Iterator[dict[str, Tensor]]:
        """The planes of every option for one input; override it where the options share work.

        Parameters
        ----------
        x, known
            As in `encode`.
        options : sequence
            Settled values of this class.
        """
        return (option.encode(x, known) for option in options)


class Calibrated(Transform, frozen=True):
    """A transform whose `encode` can use the second moments of what rows of the tensor meet."""

    @property
    @abc.abstractmethod
    def calibrated(self) -> bool:
        """Whether this value uses ``known.moments``: collecting them takes a run of the model. Often a field."""


class Narrowing(Transform, frozen=True):
    """A transform whose `encode` rounds side information, so far that some of it may become zero."""

    @abc.abstractmethod
    def narrowed(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The side information that was rounded, by plane. The report counts its zeros, as it does those of later stages.

        Parameters
        ----------
        x : Tensor
            What was encoded.
        planes : mapping
            What `encode` made of it.

        Returns
        -------
        dict
            Two tensors of one shape for each: the numbers as they were, and as they are stored.
        """


class Sharing(Transform, frozen=True):
    """A transform that may have planes in common with others of a group, such as one basis for many matrices.

    The planner asks for the `groups` of the planes that a stage matches, then, for each group, for what its planes have in
    common. That stands once in the program and the file. `encode` is given it as ``known.shared``, and returns it among its
    planes as it is; `decode` does not know which of its planes are shared.

    A plane that has no other of its kind in its group gets planes of its own, from `encode` without ``known.shared``; unless
    the transform does nothing for it then (``solitary`` is False), which leaves it as it is.
    """

    #: Whether a plane that shares with no other is split too.
    solitary: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def common(self) -> frozenset[str]:
        """Names of the planes that a group shares; empty if this value shares none."""

    @abc.abstractmethod
    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The planes with these addresses by group, in the order given; each in one group.

        Parameters
        ----------
        names : sequence of str
            Planes that the stage matches, as ``tensor`` or ``tensor/path``.

        Returns
        -------
        dict
            Addresses by the name of their group, which becomes part of the names of the shared planes.
        """

    @abc.abstractmethod
    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        """The planes that one group has in common, by name, as `plan` gives their specs.

        Parameters
        ----------
        planes : mapping
            All planes of the group, by address; may be walked several times and loads lazily. This value is settled.
        """


class Outside(Transform, frozen=True):
    """A transform with a plane that lies in another model: the tensor there that has the name and the spec of this one.

    The planner asks the other model which tensors it has and leaves others out of the stage. `encode` is given the plane as
    ``known.shared`` and returns it among its planes as it is; the file names the model by its fingerprint and does not hold
    it. `decode` does not know where the plane comes from. Training leaves it as it is.

    Parameters
    ----------
    base : str, optional
        The other model, as recipes name models. Files and lock files name it by its fingerprint.
    """

    #: Name of the plane.
    outside: ClassVar[str]
    encode_only: ClassVar[frozenset[str]] = frozenset({"base"})

    base: Annotated[
        str | None,
        msgspec.Meta(description="the other model: a demo name, a Hugging Face folder or id, or a .safetensors file"),
    ] = None


class Trainable(Transform, frozen=True):
    """A transform with a form of its own for training; others are encoded anew in every step.

    The defaults do what is done with a transform that is not trainable, but for `hold`, which says what is kept.
    """

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`encode` in a training step: choices that take time, such as a mask or a basis, are those of ``planes``.

        Parameters
        ----------
        x : Tensor
            What the plane is now.
        planes : mapping
            Planes that this value made, or that training has changed since.
        """
        return self.encode(x)

    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """`hold` with gradients: integer planes are real here, rounded, and pass gradients on as if they were not.

        `decode` of them has the value of what would be stored; its gradient reaches ``x`` and the real ones of ``planes``.
        None, as by default, if that is too dear: the gradient then passes the transform, and all below it, unchanged.
        """
        return None

    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        """What is stored of a trained plane: this transform, settled for it, and its planes.

        Parameters
        ----------
        x : Tensor
            The trained plane.
        planes : mapping
            As in `hold`; trained side information, such as a scale, is among them and stays.
        """
        made = self.hold(x.detach(), planes)
        return self, made

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Which rows of each plane decode to some rows of this one; a value of None stands for all of the plane.

        ``decode`` of these rows, with as many rows in the spec, is then what ``decode`` gives there. So a training step
        decodes those rows of an embedding that it meets. None, as by default, if rows cannot be had alone. Only planes with
        two axes or more are asked for rows.

        Parameters
        ----------
        index : Tensor
            Numbers of rows, int64, ascending.
        planes : mapping
            Planes of integers, such as masks.
        """
        return None

    def rate(self, planes: Mapping[str, Tensor], bits: Callable[[str, Tensor], Tensor] | None = None) -> Tensor | None:
        """Differentiable estimate of the bits of relaxed integer planes, for training; never reported as a size.

        Parameters
        ----------
        planes : mapping
            As `relax` returns them.
        bits : callable, optional
            Gives the bits of one plane of rounded numbers by its name; `stackc.core.rate.code_bits` without it. A training
            loop passes one that remembers how the codes are distributed from one step to the next.

        Returns
        -------
        Tensor or None
            0-d; None if there are no such planes.
        """
        return None


class Repeated:
    """How a transform is trained that is not `Trainable`: encoded anew in every step, with gradients passing it unchanged."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The planes of ``x``, with every choice made anew."""
        return self._transform.encode(x)

    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """None: nothing is known of its gradients."""
        return None

    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Transform, dict[str, Tensor]]:
        """The transform as it is, and the planes of ``x``."""
        return self._transform, self._transform.encode(x.detach())

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """None: nothing is known of its rows."""
        return None

    def rate(self, planes: Mapping[str, Tensor], bits: Callable[[str, Tensor], Tensor] | None = None) -> Tensor | None:
        """None: nothing is known of its codes."""
        return None


def training_form(transform: Transform) -> Trainable | Repeated:
    """How a training step sees a transform.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> cast = find("cast").stage(to="float16")
    >>> training_form(cast) is cast
    True
    """
    return transform if isinstance(transform, Trainable) else Repeated(transform)


def settle_each(transform: Transform, planes: Mapping[str, Weighted]) -> Mapping[str, Transform]:
    """A settled transform for each plane; one that has nothing to choose looks at none of them.

    Examples
    --------
    >>> import torch
    >>> from stackc.core.registry import find
    >>> planes = {"x": Weighted(torch.tensor([0.25, -1.0]))}
    >>> settle_each(find("int").stage(step=0.25), planes)["x"].bits
    4
    """
    if isinstance(transform, Settling) and not transform.settled:
        return transform.settle(planes)
    return dict.fromkeys(planes, transform)


def is_open(config: object) -> TypeGuard[Allocated]:
    """Whether a stage leaves something to the rate allocation.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> is_open(find("int").stage(step="auto")), is_open(find("int").stage(step=0.1)), is_open(find("zstd").stage())
    (True, False, False)
    """
    return isinstance(config, Allocated) and not config.allocated


def uses_moments(config: object) -> bool:
    """Whether a stage uses the second moments of what tensors meet.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> uses_moments(find("int").stage(calibrated=True)), uses_moments(find("int").stage())
    (True, False)
    """
    return isinstance(config, Calibrated) and config.calibrated
