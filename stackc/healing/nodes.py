"""The tree of nodes that a stack becomes in training.

Above the numbers that are trained, `Transform.decode` is exact, as in the decoder (`Exact`). Below them every stage is
simulated (`Simulated`): what it would store is computed again from the trained numbers, rounded, and decoded.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stackc.core.abilities import training_form
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Stack, join
from stackc.core.transform import Transform
from stackc.planning.trained import Hardened
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Gives the bits of relaxed codes by the path of their plane.
Bits = Callable[[str, "Tensor"], "Tensor"]


class Start(NamedTuple):
    """Where training begins: planes at the leaves, and what transforms on the way were given, as far as it is known."""

    planes: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]

    def value(self, stack: Stack, spec: PlaneSpec, path: str) -> Tensor:
        """The plane at a path: as it was given, or decoded from below."""
        if path in self.inputs:
            return self.inputs[path].detach()
        if not isinstance(stack, Branch):
            return self.planes[path]
        specs = stack.transform.plan(spec)
        below = {plane: self.value(child, specs[plane], join(path, plane)) for plane, child in stack.planes.items()}
        with torch.no_grad():
            return stack.transform.decode(below, spec)


class Node(abc.ABC):
    """A plane at a path, as training sees it."""

    def __init__(self, path: str, spec: PlaneSpec) -> None:
        self.path = path
        self.spec = spec

    @abc.abstractmethod
    def value(self, rows: Tensor | None) -> Tensor:
        """The plane, or some of its rows."""

    @abc.abstractmethod
    def harden(self, done: Hardened) -> None:
        """Write down what is stored of it."""

    @abc.abstractmethod
    def walk(self) -> Iterator[Node | Simulated]:
        """The node and all below."""

    @abc.abstractmethod
    def has_rows(self) -> bool:
        """Whether `value` can give single rows without the others."""


class Value(Node):
    """A plane that is there as numbers: constant, trained, or (``positive``) trained as a factor on what it was."""

    def __init__(self, path: str, spec: PlaneSpec, plane: Tensor, *, trained: bool, positive: bool = False) -> None:
        super().__init__(path, spec)
        self._plane = plane
        self.positive = positive
        self.parameter: nn.Parameter | None = None
        if trained:
            # Masters are at least float32: half precision under Adam is not finite after a step.
            wide = plane.to(torch.promote_types(plane.dtype, torch.float32), copy=True)
            self._plane = wide
            self.parameter = torch.nn.Parameter(torch.zeros_like(wide) if positive else wide)

    def value(self, rows: Tensor | None) -> Tensor:
        plane = self._plane
        if self.parameter is not None:
            plane = self._plane * self.parameter.exp() if self.positive else self.parameter
        plane = plane if rows is None else plane[rows]
        return plane.to(getattr(torch, self.spec.dtype))

    def harden(self, done: Hardened) -> None:
        done.planes[self.path] = self.value(None)

    def walk(self) -> Iterator[Node | Simulated]:
        yield self

    def has_rows(self) -> bool:
        return True


class Exact(Node):
    """A plane that a transform splits, with all that is trained further down: decoded as in the decoder."""

    def __init__(self, path: str, spec: PlaneSpec, transform: Transform, children: dict[str, Node]) -> None:
        super().__init__(path, spec)
        self._transform = transform
        self._form = training_form(transform)
        self._children = children

    def value(self, rows: Tensor | None) -> Tensor:
        numbers = self._numbers(rows)
        planes = {plane: child.value(numbers[plane]) for plane, child in self._children.items()}
        return self._transform.decode(planes, _with_rows(self.spec, rows))

    def harden(self, done: Hardened) -> None:
        for child in self._children.values():
            child.harden(done)

    def walk(self) -> Iterator[Node | Simulated]:
        yield self
        for child in self._children.values():
            yield from child.walk()

    def has_rows(self) -> bool:
        numbers = self._form.row_planes(torch.zeros(1, dtype=torch.int64), self._integers())
        if numbers is None:
            return False
        return all(numbers[plane] is None or child.has_rows() for plane, child in self._children.items())

    def _numbers(self, rows: Tensor | None) -> Mapping[str, Tensor | None]:
        numbers = None if rows is None else self._form.row_planes(rows, self._integers())
        return dict.fromkeys(self._children) if numbers is None else numbers

    def _integers(self) -> dict[str, Tensor]:
        return {plane: child.value(None) for plane, child in self._children.items() if not child.spec.is_real}


class Latent(Node):
    """A trained plane with the stages below it simulated."""

    def __init__(self, path: str, spec: PlaneSpec, trained: Value, below: Simulated | None) -> None:
        super().__init__(path, spec)
        self.trained = trained
        self.below = below

    def value(self, rows: Tensor | None) -> Tensor:
        x = self.trained.value(rows)
        return x if self.below is None else self.below.shown(x, rows, top=True)

    def bits(self, price: Bits) -> Iterator[Tensor]:
        """Bits of every plane of codes below."""
        if self.below is not None:
            yield from self.below.bits(self.trained.value(None), price)

    def harden(self, done: Hardened) -> None:
        x = self.trained.value(None)
        if self.below is None:
            done.planes[self.path] = x
            return
        done.inputs[self.path] = x
        self.below.harden_from(x, done)

    def walk(self) -> Iterator[Node | Simulated]:
        yield self
        yield self.trained
        if self.below is not None:
            yield from self.below.walk()

    def has_rows(self) -> bool:
        return self.below is None or self.below.has_rows()


class Simulated:
    """A stage below a trained plane: it encodes what the plane is now, with the masks, bases and scales that are there.

    ``sides`` are planes that are trained themselves, such as steps and codebooks; ``held`` are those that stay, as they
    were made last; ``children`` are further stages on planes that are made anew.
    """

    def __init__(
        self,
        path: str,
        spec: PlaneSpec,
        transform: Transform,
        sides: dict[str, Node],
        held: dict[str, Tensor],
        children: dict[str, Simulated],
    ) -> None:
        self.path = path
        self._spec = spec
        self._transform = transform
        self._form = training_form(transform)
        self._sides = sides
        self.held = held
        self._children = children
        self._quantises = _quantises(transform, spec)
        self.remembers = False
        #: What `shown` has made of the whole plane, for `bits` of the same step.
        self._made: dict[str, Tensor] | None = None

    def shown(self, x: Tensor, rows: Tensor | None, *, top: bool = False) -> Tensor:
        """What would come back of ``x`` (rows of the plane), with gradients; ``top`` if ``x`` itself is what is trained."""
        spec = _with_rows(self._spec, rows)
        around = self._around(rows)
        made = self._form.relax(x, around) if self._quantises else None
        self._made = made if top and self.remembers else None
        straight = made is None
        if made is None:
            made = self._form.hold(x.detach(), around)
        planes = {
            plane: self._children[plane].shown(value, None)
            if plane in self._children
            else around.get(plane, value)
            if plane in self._sides
            else value
            for plane, value in made.items()
        }
        decoded = self._transform.decode(planes, spec)
        return decoded + (x - x.detach()) if straight else decoded

    def bits(self, x: Tensor, price: Bits) -> Iterator[Tensor]:
        """Bits of all codes that are made of ``x``."""
        made, self._made = self._made, None
        if made is None:
            around = self._around(None)
            made = self._form.relax(x, around)
            if made is None:
                made = self._form.hold(x, around)
        bits = self._form.rate(made, lambda plane, codes: price(join(self.path, plane), codes))
        if bits is not None:
            yield bits
        for plane, child in self._children.items():
            yield from child.bits(made[plane], price)

    def rechoose(self, x: Tensor) -> None:
        """Encode anew, masks and bases included; scales that are trained stay."""
        if self._quantises:
            return
        made = self._transform.encode(x)
        self.held = {plane: made[plane] for plane in self.held}
        for plane, child in self._children.items():
            child.rechoose(made[plane])

    def harden_from(self, x: Tensor, done: Hardened) -> None:
        """Write down what is stored of ``x``."""
        transform, made = self._form.harden(x, self._around(None))
        if transform != self._transform:
            done.transforms[self.path] = transform
        for plane, value in made.items():
            if plane in self._sides:
                self._sides[plane].harden(done)
            elif plane in self._children:
                done.inputs[join(self.path, plane)] = value
                self._children[plane].harden_from(value, done)
            else:
                done.planes[join(self.path, plane)] = value

    def walk(self) -> Iterator[Node | Simulated]:
        yield self
        for side in self._sides.values():
            yield from side.walk()
        for child in self._children.values():
            yield from child.walk()

    def has_rows(self) -> bool:
        return not self._children and self._form.row_planes(torch.zeros(1, dtype=torch.int64), self.held) is not None

    def _around(self, rows: Tensor | None) -> dict[str, Tensor]:
        numbers = None if rows is None else self._form.row_planes(rows, self.held)
        some: Mapping[str, Tensor | None] = {} if numbers is None else numbers
        around = {}
        for plane, value in self.held.items():
            index = some.get(plane)
            around[plane] = value if index is None else value[index]
        return around | {plane: node.value(some.get(plane)) for plane, node in self._sides.items()}


class Builder:
    """Makes the nodes of a stack."""

    def __init__(self, start: Start, device: torch.device | None) -> None:
        self._start = start
        self._device = device

    def node(self, stack: Stack, spec: PlaneSpec, path: str, *, side: bool = False) -> Node:
        """The plane at a path, with trained numbers as far down as there are real ones that decode to it."""
        if not isinstance(stack, Branch):
            plane = self._here(stack, spec, path)
            trained = spec.is_real and spec.numel > 0
            return Value(path, spec, plane, trained=trained, positive=trained and side and bool((plane > 0).all()))
        if not spec.is_real:
            return Constant(path, spec, self._here(stack, spec, path), self._leaves(stack, spec, path))
        if _quantises(stack.transform, spec):
            return self.latent(stack, spec, path)
        specs = stack.transform.plan(spec)
        children = {plane: self.node(child, specs[plane], join(path, plane)) for plane, child in stack.planes.items()}
        return Exact(path, spec, stack.transform, children)

    def latent(self, stack: Stack, spec: PlaneSpec, path: str) -> Latent:
        """The plane at a path as trained numbers, with all below simulated."""
        trained = Value(path, spec, self._here(stack, spec, path), trained=spec.numel > 0)
        return Latent(path, spec, trained, self._below(stack, spec, path) if isinstance(stack, Branch) else None)

    def _below(self, stack: Stack, spec: PlaneSpec, path: str) -> Simulated:
        assert isinstance(stack, Branch)
        specs = stack.transform.plan(spec)
        quantises = _quantises(stack.transform, spec)
        sides: dict[str, Node] = {}
        held: dict[str, Tensor] = {}
        children: dict[str, Simulated] = {}
        for plane, child in stack.planes.items():
            below, its = join(path, plane), specs[plane]
            if quantises and its.is_real and plane in stack.transform.side:
                sides[plane] = self.node(child, its, below, side=True)
                continue
            held[plane] = self._here(child, its, below)
            if isinstance(child, Branch):
                children[plane] = self._below(child, its, below)
        return Simulated(path, spec, stack.transform, sides, held, children)

    def _here(self, stack: Stack, spec: PlaneSpec, path: str) -> Tensor:
        plane = self._start.value(stack, spec, path)
        return plane if self._device is None else plane.to(self._device)

    def _leaves(self, stack: Stack, spec: PlaneSpec, path: str) -> dict[str, Tensor]:
        if not isinstance(stack, Branch):
            return {path: self._start.planes[path]}
        specs = stack.transform.plan(spec)
        found: dict[str, Tensor] = {}
        for plane, child in stack.planes.items():
            found |= self._leaves(child, specs[plane], join(path, plane))
        return found


class Constant(Value):
    """A plane of integers that transforms split further: it stays as it is."""

    def __init__(self, path: str, spec: PlaneSpec, plane: Tensor, leaves: Mapping[str, Tensor]) -> None:
        super().__init__(path, spec, plane, trained=False)
        self._leaves = leaves

    def harden(self, done: Hardened) -> None:
        done.planes.update(self._leaves)


def _with_rows(spec: PlaneSpec, rows: Tensor | None) -> PlaneSpec:
    return spec if rows is None else msgspec.structs.replace(spec, shape=(len(rows), *spec.shape[1:]))


def _quantises(transform: Transform, spec: PlaneSpec) -> bool:
    """Whether a transform makes no real plane that is as wide as its input and more than side information."""
    return not any(
        made.is_real and made.item_bytes >= spec.item_bytes and plane not in transform.side
        for plane, made in transform.plan(spec).items()
    )
