"""Which row of the report every byte of an artifact belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from stackc.artifact.decoder import StoredPlane
from stackc.artifact.reader import Artifact
from stackc.core.stack import SharedUse
from stackc.models.companions import LEFT_BEHIND, is_kept
from stackc.reporting.report import ByteRow

#: Name of the row of files that are kept with every model.
COMPANIONS = "companions"

_ROLES = ("payload", "side", "tables", "container", "bundle")


class _Total(msgspec.Struct, frozen=True):
    count: int = 0
    bytes: int = 0
    entropy_bits: float | None = 0.0

    def plus(self, count: int, size: int, entropy_bits: float | None) -> _Total:
        entropy = None if entropy_bits is None or self.entropy_bits is None else self.entropy_bits + entropy_bits
        return _Total(self.count + count, self.bytes + size, entropy)


class _Place(NamedTuple):
    """What a shared plane is where it is used: its name there, and whether it is side information."""

    plane: str
    side: bool


_WHOLE = _Place("", False)


def _places(artifact: Artifact) -> dict[str, _Place]:
    """What each shared plane is to the first that refers to it; users come before what they use."""
    places: dict[str, _Place] = {}

    def note(uses: Iterable[SharedUse], user: _Place) -> None:
        for use in uses:
            place = _Place(use.path.rpartition("/")[2] or user.plane, use.side or user.side)
            places.setdefault(use.plane, place)

    for tensor in artifact.specs:
        note(artifact.uses(tensor), _WHOLE)
    for name in artifact.shared:
        note(artifact.shared.uses(name), places.setdefault(name, _WHOLE))
    return places


def byte_rows(artifact: Artifact, entropy_bits: Mapping[tuple[str, str], float] | None = None) -> list[ByteRow]:
    """Sum the bytes of a file by role, plane and packer.

    Parameters
    ----------
    artifact : Artifact
        An open file.
    entropy_bits : mapping, optional
        Order-0 entropy of planes by tensor, or by the file's name of a shared plane, and path; where known.

    Returns
    -------
    list of ByteRow
        Their bytes add up to the file's size.
    """
    totals: dict[tuple[str, str, str], _Total] = {}

    def add(role: str, plane: str, packer: str, count: int, size: int, entropy: float | None) -> None:
        key = (role, plane, packer)
        totals[key] = totals.get(key, _Total()).plus(count, size, entropy)

    def add_planes(owner: str, planes: Iterable[StoredPlane], place: _Place) -> None:
        for stored in planes:
            planned = stored.planned
            name = planned.path.rpartition("/")[2] or place.plane
            role = "side" if planned.side or place.side else "payload"
            tables = planned.packer.side_bytes(artifact.plane_bytes(stored), planned.spec)
            known = (entropy_bits or {}).get((owner, planned.path))
            add(role, name, planned.packer.name, 1, stored.length - tables, known)
            if tables:
                add("tables", "", planned.packer.name, 1, tables, None)

    for tensor in artifact.specs:
        add_planes(tensor, artifact.planes(tensor), _WHOLE)
    for name, place in _places(artifact).items():
        add_planes(name, artifact.shared.planes(name), place)
    add("container", "", "", 1, artifact.container_bytes, None)
    for name, size in artifact.bundled.items():
        # What every model keeps is a part of any file, as the manifest is; a tokenizer is there because somebody asked.
        kind = ("container", COMPANIONS) if is_kept(name) or name == LEFT_BEHIND else ("bundle", "")
        add(*kind, "zstd", 1, size, None)
    rows = [
        ByteRow(
            role=role,
            plane=plane,
            packer=packer,
            count=total.count,
            bytes=total.bytes,
            entropy_bytes=None if total.entropy_bits is None else total.entropy_bits / 8,
        )
        for (role, plane, packer), total in totals.items()
    ]
    return sorted(rows, key=lambda row: (_ROLES.index(row.role), -row.bytes))
