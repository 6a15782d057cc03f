"""Mutants of good files. Each is rebuilt from its seed and its number alone, with all checksums put right.

Without that, a mutant would end at the first checksum: the kind ``damage`` leaves them as they are and is the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import zstandard

from tests.fuzz.draw import STAGES, Draw
from tests.fuzz.grown import grown
from tests.fuzz.parts import (
    BUNDLE,
    CONFIG,
    DTYPE,
    KIND,
    LENGTHS,
    NAMES,
    SHAPE,
    SHARED,
    STACK,
    STACKS,
    TENSORS,
    TIES,
    Parts,
    entries,
    header,
    join,
    manifest_bytes,
    seal,
    seal_bytes,
    split,
)


class Mutant(NamedTuple):
    """A file and how it was made."""

    kind: str
    data: bytes


def mutant(seeds: Sequence[bytes], seed: int, number: int) -> Mutant:
    """Mutant ``number`` of a run.

    Parameters
    ----------
    seeds : sequence of bytes
        Good files.
    seed, number : int
        Which run, and which of its mutants.
    """
    draw = Draw((seed << 64) | number)
    kind = draw.one(_DRAWN)
    return Mutant(kind, _KINDS[kind][1](draw, draw.one(seeds), seeds))


def _damage(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Changed bytes, nothing put right."""
    return draw.changed(data, seeds)


def _header(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Lengths and version of the header."""
    manifest, payload = manifest_bytes(data)
    compressed = data[20 : len(data) - len(payload)]
    size, announced, version = len(manifest), len(compressed), data[7]
    match draw.below(4):
        case 0:
            size = draw.near(size)
        case 1:
            announced = draw.near(announced)
        case 2:
            version = draw.below(256)
        case _:
            size, compressed = 0, draw.one((b"", compressed[:4], compressed + compressed))
            announced = len(compressed)
    return header(compressed, size, version, announced) + compressed + draw.one((payload, b"", payload + payload))


def _frame(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """The compressed bytes of the manifest."""
    manifest, payload = manifest_bytes(data)
    compressed = draw.changed(data[20 : len(data) - len(payload)])
    return header(compressed, len(manifest), data[7]) + compressed + payload


def _encoded(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """The MessagePack bytes of the manifest."""
    manifest, payload = manifest_bytes(data)
    return seal_bytes(draw.changed(manifest), payload, data[7])


def _anything(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Anything anywhere in the manifest: replaced, removed, repeated, moved, nested."""
    manifest, payload = manifest_bytes(data)
    tree = msgspec.msgpack.decode(manifest)
    for _ in range(draw.one((1, 1, 1, 2, 4))):
        holder, key = _place(draw, tree)
        if holder is None:
            return seal(draw.value(), payload)
        match draw.below(7):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, holder[key])
            case 2:
                other, place = _place(draw, tree)
                if other is not None:
                    holder[key] = msgspec.msgpack.decode(msgspec.msgpack.encode(other[place]))
            case 3:
                holder[key] = draw.one(([holder[key]], {"": holder[key]}, str(holder[key])))
            case 4 if isinstance(holder, dict):
                holder[draw.one(("", "rank", "w", key + "\0"))] = draw.value()
            case _:
                holder[key] = draw.near(holder[key]) if type(holder[key]) is int else draw.value()
    return seal(tree, payload)


def _place(draw: Draw, tree: Any) -> tuple[Any, Any]:
    """Somewhere in a tree: what holds it, and its key there."""
    holder, key, node = None, None, tree
    while isinstance(node, list | dict) and node:
        if holder is not None and draw.chance(0.2):
            break
        holder, key = node, draw.below(len(node))
        if isinstance(node, dict):
            key = list(node)[key]
        node = node[key]
    return holder, key


def _fields(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Numbers that a good file may hold: shapes, dtypes, lengths, stages and their settings. Most of these parse."""
    manifest, pieces = split(data)
    for _ in range(draw.one((1, 1, 2, 3))):
        entry = draw.one(entries(manifest))
        match draw.below(13):
            case 0 | 1 if entry[SHAPE]:
                axis = draw.below(len(entry[SHAPE]))
                entry[SHAPE][axis] = draw.near(entry[SHAPE][axis])
            case 2:
                draw.shuffle(entry[SHAPE])
            case 3:
                numel = min(max(math.prod(entry[SHAPE]), -(1 << 63)), 1 << 63)
                entry[SHAPE] = draw.one(([numel], [1, numel], [numel, 1], [*entry[SHAPE], 1], [1] * 65, [], [0, numel]))
            case 4:
                entry[DTYPE] = draw.below(11)
            case 5:
                entry[STACK] = draw.below(len(manifest[STACKS]) + 1)
            case 6 if len(pieces) > 1:
                first, second = draw.below(len(pieces)), draw.below(len(pieces))
                pieces[first], pieces[second] = pieces[second], pieces[first]
            case 7:
                node = _node(draw, manifest[STACKS])
                node[draw.below(2)] = draw.one(STAGES) if draw.chance(0.5) else draw.one((1, 2, 0))
            case 12:
                _reference(draw, manifest)
            case 8:
                node = _node(draw, manifest[STACKS])
                node[3:] = draw.one(([], [[]], [[["raw", 1, {}]]], [[["raw", 1, {}]] * 2], node[3:]))
            case _:
                config = _node(draw, manifest[STACKS])[2]
                if config:
                    key = draw.one(list(config))
                    old = config[key]
                    config[key] = draw.near(old) if type(old) is int else draw.value()
    return join(Parts(manifest, pieces))


def _node(draw: Draw, stacks: list[Any]) -> list[Any]:
    """A node that is a stage; references are numbers."""
    node: list[Any] = draw.one(_stages(stacks) or [["raw", 1, {}]])
    while len(node) > 3 and isinstance(node[3], list) and _stages(node[3]) and draw.chance(0.6):
        node = draw.one(_stages(node[3]))
    return node


def _stages(nodes: list[Any]) -> list[list[Any]]:
    return [node for node in nodes if isinstance(node, list)]


def _reference(draw: Draw, manifest: list[Any]) -> None:
    """A reference somewhere, to a plane that may be there."""
    planes = len(manifest[SHARED]) if len(manifest) > SHARED else 0
    node = _node(draw, manifest[STACKS])
    if len(node) > 3 and isinstance(node[3], list) and node[3]:
        node[3][draw.below(len(node[3]))] = draw.below(planes + 1)
    else:
        manifest[STACKS][draw.below(len(manifest[STACKS]))] = draw.below(planes + 2) - 1


def _planes(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Bytes of planes and bundled files."""
    parts = split(data)
    if parts.pieces:
        others = [piece for piece in split(draw.one(seeds)).pieces if piece]
        for _ in range(draw.one((1, 1, 1, 2))):
            number = draw.below(len(parts.pieces))
            parts.pieces[number] = draw.changed(parts.pieces[number], others)
    return join(parts)


def _splice(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Tensors of two files in one, or a stack of one in place of a node of the other."""
    manifest, pieces = split(data)
    other, more = split(draw.one(seeds))
    if draw.chance(0.5):
        node = _node(draw, manifest[STACKS])
        node[:] = _node(draw, other[STACKS])
        pieces[draw.below(len(pieces) + 1) : draw.below(len(pieces) + 1)] = more
        entry = draw.one(manifest[TENSORS])
        if draw.chance(0.7):
            entry[DTYPE], entry[SHAPE] = draw.one(other[TENSORS])[DTYPE : SHAPE + 1]
        spare = sum(len(piece) for piece in pieces) and len(pieces) - sum(len(e[LENGTHS]) for e in manifest[TENSORS])
        entry[LENGTHS] = entry[LENGTHS] + [0] * max(spare - len(manifest[BUNDLE]), 0)
        return join(Parts(manifest, pieces + [b""] * 64))
    first = sum(len(entry[LENGTHS]) for entry in manifest[TENSORS])
    second = sum(len(entry[LENGTHS]) for entry in other[TENSORS])
    pieces[first:first] = more[:second]
    for name, entry in zip(other[NAMES], other[TENSORS], strict=True):
        entry[STACK] += len(manifest[STACKS])
        manifest[TENSORS].append(entry)
        manifest[NAMES].append(name + draw.one(("", "2", "2")))
    manifest[STACKS] += other[STACKS]
    manifest[TIES] |= draw.one(({}, {"tied": 0}, {"tied": len(manifest[NAMES])}, {"w": 0}))
    manifest[KIND], manifest[CONFIG] = other[KIND], other[CONFIG]
    return join(Parts(manifest, pieces))


def _grown(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A stack and planes that no encoder made, sometimes damaged too."""
    parts = grown(draw)
    if parts.pieces and draw.chance(0.3):
        number = draw.below(len(parts.pieces))
        parts.pieces[number] = draw.changed(parts.pieces[number])
    return join(parts)


def _bomb(draw: Draw, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Little that wants to become much: frames, shapes, nesting, tables."""
    manifest, pieces = split(data)
    large = draw.one((1 << 16, 1 << 20, 1 << 22))
    frame = zstandard.ZstdCompressor(level=1, write_content_size=draw.chance(0.5)).compress(bytes(large))
    match draw.below(6):
        case 0:
            return header(frame, draw.one((large, 100))) + frame
        case 1:
            manifest[BUNDLE]["tokenizer.json"] = [0, draw.one((large, 100, 1 << 62))]
            return join(Parts(manifest, [*pieces, frame]))
        case 2:
            stack = ["raw", 1, {}]
            for _ in range(draw.one((31, 32, 33, 200))):
                stack = [draw.one(("cast", "seed")), 1, draw.one(({"to": "float16"}, {"rank": 1})), [stack]]
            manifest[STACKS] = [stack]
            return join(Parts(manifest, pieces))
        case 3:
            depth = draw.one((100, 2000))
            return seal_bytes(b"\x91" * depth + b"\xc0", b"")
        case 4:
            count = draw.one((100, 3000))
            manifest[NAMES] += [str(number) for number in range(count)]
            manifest[TENSORS] += [[0, 0, [0], []] for _ in range(count)]
            return join(Parts(manifest, pieces))
        case _:
            entry = draw.one(manifest[TENSORS])
            entry[SHAPE] = draw.one(([1 << 20], [1 << 10, 1 << 10], [1 << 62, 8], [1 << 40, 0], [0, 1 << 60]))
            return join(Parts(manifest, pieces))


Make = Callable[[Draw, bytes, Sequence[bytes]], bytes]

#: Weight of each kind, and what makes it.
_KINDS: dict[str, tuple[int, Make]] = {
    "damage": (20, _damage),
    "header": (30, _header),
    "frame": (70, _frame),
    "encoded": (150, _encoded),
    "anything": (150, _anything),
    "fields": (180, _fields),
    "planes": (280, _planes),
    "splice": (40, _splice),
    "grown": (78, _grown),
    "bomb": (2, _bomb),
}
_DRAWN = [kind for kind, (weight, _) in _KINDS.items() for _ in range(weight)]
