"""The key ``allocate`` of a recipe: the size that is aimed at, and how losses are estimated."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from stackc.util.humanise import parse_size

SensitivityName = Literal["fisher", "weight-error"]


class AllocateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of the file, and what the loss is estimated by.

    Parameters
    ----------
    ratio : float, optional
        Bytes of the reference over bytes of the file.
    bytes : int or str, optional
        Bytes of the file instead: a number, or text such as ``400kB``, ``1.5MB`` or ``400KiB``.
    sensitivity : {"fisher", "weight-error"}, optional
        ``fisher`` estimates the divergence from the reference's predictions on training rows of the task;
        ``weight-error`` is the squared error of the weights and needs no data. Without it: ``fisher`` if the recipe has
        a task, else ``weight-error``.

    Raises
    ------
    ValueError
        If not exactly one of ``ratio`` and ``bytes`` is given, or the size cannot be read.

    Examples
    --------
    >>> AllocateSettings(bytes="400kB").budget(reference_bytes=17_500_000)
    400000
    >>> AllocateSettings(ratio=40).budget(reference_bytes=17_500_000)
    437500
    """

    ratio: Annotated[
        Annotated[float, msgspec.Meta(gt=0)] | None,
        msgspec.Meta(description="bytes of the reference over bytes of the file"),
    ] = None
    bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | str | None,
        msgspec.Meta(description="bytes of the file instead of ratio: a number, 400kB, 1.5MB or 400KiB"),
    ] = None
    sensitivity: Annotated[
        SensitivityName | None,
        msgspec.Meta(
            description="what estimates the loss: fisher, from training rows of the task; weight-error, without data"
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.bytes is None):
            raise ValueError(f"give exactly one of ratio and bytes, not {'neither' if self.ratio is None else 'both'}")
        if isinstance(self.bytes, str):
            parse_size(self.bytes)

    def budget(self, reference_bytes: int) -> int:
        """Most bytes that the file may have."""
        if self.bytes is not None:
            return parse_size(self.bytes) if isinstance(self.bytes, str) else self.bytes
        return int(reference_bytes / (self.ratio or 1.0))
