"""The stack: the tree of transforms, ending in packers and in references, that one tensor is stored with.

Planes are addressed by their path from the root: ``""`` is the tensor itself, ``"values/scores"`` the scores that a
transform made of the values that another one made of the tensor.

A reference stands for a plane that several tensors share. It is stored once, with a stack of its own that may have
references in turn, or lies in another model; whoever evaluates a stack says where such planes come from.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stackc.core.packer import Packer
from stackc.core.registry import find_format
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, Transform, config_fields
from stackc.util.errors import ArtifactError, SpecError, StackcError, TensorError

if TYPE_CHECKING:
    from torch import Tensor

#: Stages on the longest path of a stack, packer included.
MAX_DEPTH = 32

#: What unpacking an element and all that is done with it takes, in multiplications of a matrix product: some 20 ns.
ELEMENT_WORK = 64


class Leaf(NamedTuple):
    """The end of a path: the packer that stores this plane."""

    packer: Packer


class Branch(NamedTuple):
    """A plane that a transform splits; the children are in the order of the transform's plan."""

    transform: Transform
    planes: dict[str, Stack]


class Ref(NamedTuple):
    """The end of a path at a plane that stands elsewhere; ``plane`` is its name.

    That begins with ``@`` for one that others use too, and with ``^`` for a tensor of another model.
    """

    plane: str


Stack = Leaf | Branch | Ref


class PlannedPlane(NamedTuple):
    """One stored plane of a stack: where it is, what it looks like, who packs it, and whether it is side information."""

    path: str
    spec: PlaneSpec
    packer: Packer
    side: bool


class SharedUse(NamedTuple):
    """One reference of a stack: where it is, which shared plane it names, what this must look like, and whether it is side
    information there.
    """

    path: str
    plane: str
    spec: PlaneSpec
    side: bool


def join(path: str, plane: str) -> str:
    """Path of a plane that a transform makes of the plane at ``path``."""
    return f"{path}/{plane}" if path else plane


def plan_of(transform: Transform, spec: PlaneSpec) -> Mapping[str, PlaneSpec]:
    """What a transform plans for a plane; raises as its `plan` does.

    Models have many tensors of one shape, and each is planned at every stage and at every look at the file. So plans are
    kept.
    """
    try:
        return _planned(transform, spec)
    except TypeError:  # a plugin whose fields do not hash
        return transform.plan(spec)


@functools.lru_cache(maxsize=1024)
def _planned(transform: Transform, spec: PlaneSpec) -> Mapping[str, PlaneSpec]:
    return transform.plan(spec)


def stored_planes(stack: Stack, spec: PlaneSpec) -> list[PlannedPlane]:
    """The planes at the leaves, in the order in which their bytes are stored; those that it refers to are not among them.

    Parameters
    ----------
    stack : Stack
        Tree of settled transforms and packers.
    spec : PlaneSpec
        Spec of the tensor at the root.

    Raises
    ------
    SpecError
        If a transform or packer in the tree does not take its plane.
    """
    return [
        PlannedPlane(path, planned, node.packer, side)
        for path, planned, node, side in _ends(stack, spec, "", False)
        if isinstance(node, Leaf)
    ]


def references(stack: Stack, spec: PlaneSpec) -> list[SharedUse]:
    """The shared planes that a stack refers to, in its order; one that is used twice is listed twice.

    Raises
    ------
    SpecError
        If a transform or packer in the tree does not take its plane.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> scores = Leaf(find("raw").stage())
    >>> stack = Branch(find("seed").stage(rank=2, center=False), {"basis": Ref("@basis"), "scores": scores})
    >>> [(use.path, use.plane, str(use.spec)) for use in references(stack, PlaneSpec((30, 10), "float32"))]
    [('basis', '@basis', 'float32 2x10')]
    >>> [plane.path for plane in stored_planes(stack, PlaneSpec((30, 10), "float32"))]
    ['scores']
    """
    return [
        SharedUse(path, node.plane, planned, side)
        for path, planned, node, side in _ends(stack, spec, "", False)
        if isinstance(node, Ref)
    ]


def shared_planes(stack: Stack) -> list[str]:
    """Names of the shared planes that a stack refers to, each once; needs no spec.

    Examples
    --------
    >>> shared_planes(Ref("@basis"))
    ['@basis']
    """
    if isinstance(stack, Ref):
        return [stack.plane]
    if isinstance(stack, Leaf):
        return []
    return list(dict.fromkeys(name for child in stack.planes.values() for name in shared_planes(child)))


def _ends(stack: Stack, spec: PlaneSpec, path: str, side: bool) -> Iterator[tuple[str, PlaneSpec, Leaf | Ref, bool]]:
    if isinstance(stack, Leaf):
        reason = stack.packer.refusal(spec)
        if reason is not None:
            raise SpecError(f"{stack.packer.name} does not take {path or 'the tensor'}: {reason}")
    if not isinstance(stack, Branch):
        yield path, spec, stack, side
        return
    specs = plan_of(stack.transform, spec)
    if list(specs) != list(stack.planes):
        raise SpecError(
            f"{stack.transform.name} makes the planes {list(specs)}, but the stack stores {list(stack.planes)}"
        )
    for plane, child in stack.planes.items():
        yield from _ends(child, specs[plane], join(path, plane), side or plane in stack.transform.side)


def nothing_shared(plane: str, spec: PlaneSpec) -> Tensor:
    """What a stack without references may ask for: no plane."""
    raise StackcError(f"the stack refers to the shared plane {plane!r} ({spec}), and there are none here")


def decode(
    stack: Stack,
    spec: PlaneSpec,
    plane_at: Callable[[str, PlaneSpec, Packer], Tensor],
    shared_at: Callable[[str, PlaneSpec], Tensor] = nothing_shared,
    path: str = "",
) -> Tensor:
    """Evaluate the tree from its leaves to the tensor.

    Parameters
    ----------
    stack : Stack
        Tree of settled transforms and packers.
    spec : PlaneSpec
        Spec of the plane at the root.
    plane_at : callable
        Gives the tensor of the leaf at a path; called once per leaf, in stored order.
    shared_at : callable
        Gives the shared plane of a name, which has this spec; called once per reference, in the same order. Transforms do
        not change the planes that they decode, so it may give the same tensor every time.
    path : str
        Path of the root, for error messages and for ``plane_at``.

    Returns
    -------
    Tensor
        The decoded tensor, with the shape and dtype of ``spec``; differentiable where the leaves are. It may be a shared
        plane itself, or a view of one.
    """
    if isinstance(stack, Leaf):
        return plane_at(path, spec, stack.packer)
    if isinstance(stack, Ref):
        return shared_at(stack.plane, spec)
    specs = plan_of(stack.transform, spec)
    planes = {
        plane: decode(child, specs[plane], plane_at, shared_at, join(path, plane))
        for plane, child in stack.planes.items()
    }
    return stack.transform.decode(planes, spec)


class Cost(NamedTuple):
    """What decoding takes: bytes of all planes below the tensor, and work in multiplications."""

    planes: int
    work: int


def cost(stack: Stack, spec: PlaneSpec) -> Cost:
    """What decoding a tensor takes, from specs alone.

    Parameters
    ----------
    stack : Stack
        Tree of settled transforms and packers.
    spec : PlaneSpec
        Spec of the tensor at the root.

    Returns
    -------
    Cost
        Every element of every plane, the tensor's included, counts as `ELEMENT_WORK` multiplications beside those that
        transforms and packers announce. A shared plane is looked at by every user, so its elements are counted here; its
        bytes and what it takes to make it are not, as that happens once for all of them.

    Examples
    --------
    >>> from stackc.core.registry import find, find_packer
    >>> raw, spec = Leaf(find_packer("raw")), PlaneSpec((30, 10), "float32")
    >>> cost(raw, spec)
    Cost(planes=0, work=19200)
    >>> cost(Branch(find("seed").stage(rank=5, center=False), {"basis": raw, "scores": raw}), spec)
    Cost(planes=800, work=33500)
    """
    planes, work = 0, ELEMENT_WORK * spec.numel
    if isinstance(stack, Leaf):
        return Cost(planes, work + stack.packer.work(spec))
    if isinstance(stack, Ref):
        return Cost(planes, work)
    specs = plan_of(stack.transform, spec)
    work += stack.transform.work(spec)
    for plane, child in stack.planes.items():
        below = cost(child, specs[plane])
        planes += (0 if isinstance(child, Ref) else specs[plane].nbytes) + below.planes
        work += below.work
    return Cost(planes, work)


def encode_plane(
    transform: Transform, x: Tensor, spec: PlaneSpec, known: Known = NOTHING
) -> dict[str, tuple[PlaneSpec, Tensor]]:
    """Encode one plane and hold the result against the plan.

    Raises
    ------
    TensorError
        If the transform refuses the data, or made something else than it planned.
    """
    return as_planned(transform, transform.encode(x, known), spec)


def as_planned(
    transform: Transform, planes: Mapping[str, Tensor], spec: PlaneSpec
) -> dict[str, tuple[PlaneSpec, Tensor]]:
    """The planes that a transform made of a plane with this spec, beside what it planned.

    Raises
    ------
    TensorError
        If the two differ.
    """
    specs = plan_of(transform, spec)
    if list(planes) != list(specs):
        raise TensorError(
            f"{transform.name} planned the planes {list(specs)} but made {list(planes)}; this is a bug in it"
        )
    for plane, planned in specs.items():
        difference = planned.mismatch(planes[plane])
        if difference is not None:
            raise TensorError(f"{transform.name} broke its plan for {plane}: {difference}; this is a bug in it")
    return {plane: (specs[plane], planes[plane]) for plane in specs}


def to_wire(stack: Stack, numbers: Mapping[str, int] = MappingProxyType({})) -> Any:
    """The tree as plain lists, for the manifest.

    Parameters
    ----------
    stack : Stack
        Tree of settled transforms and packers.
    numbers : mapping
        Number of each shared plane by name.

    Returns
    -------
    list or int
        ``[name, version, config]`` and, for a branch, its children in order; for a reference its plane's number.

    Raises
    ------
    StackcError
        If the stack refers to a plane without a number.
    """
    if isinstance(stack, Ref):
        if stack.plane not in numbers:
            raise StackcError(f"the stack refers to the shared plane {stack.plane!r}, which is not there")
        return numbers[stack.plane]
    if isinstance(stack, Leaf):
        return [*_stage_wire(stack.packer)]
    return [*_stage_wire(stack.transform), [to_wire(child, numbers) for child in stack.planes.values()]]


def _stage_wire(stage: Transform | Packer) -> tuple[str, int, dict[str, Any]]:
    return stage.name, stage.version, _stored_config(stage)


def _stored_config(stage: Transform | Packer) -> dict[str, Any]:
    """The configuration of a stage as a file holds it: every field that decoding may ask for, and no other."""
    config: dict[str, Any]
    config = config_fields(stage.stored) if isinstance(stage, Transform) else msgspec.to_builtins(stage)
    return config


class _Node(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    version: int
    config: dict[str, Any]
    planes: list[Any] | None = None


class Unfitted(NamedTuple):
    """A stack as the file has it: stages and what is below them, before any spec says which planes those are."""

    stage: Transform | Packer
    below: list[Stages] | None


#: Unfitted stages, or the number of a shared plane.
Stages = Unfitted | int


def shared_name(number: int) -> str:
    """Name of a file's shared plane; the file has none, only numbers.

    Examples
    --------
    >>> shared_name(3)
    '@3'
    """
    return f"@{number}"


def from_wire(wire: Any, spec: PlaneSpec, shared: Sequence[PlaneSpec] = ()) -> Stack:
    """Inverse of `to_wire`; the names of the children come from the plan, those of shared planes from `shared_name`.

    Parameters
    ----------
    wire : list or int
        The plain form.
    spec : PlaneSpec
        Spec of the plane at the root.
    shared : sequence of PlaneSpec
        Those of the shared planes, by number.

    Raises
    ------
    ArtifactError
        If the lists do not describe a legal stack for this spec.
    DependencyError
        If a stage that it needs is not installed.
    """
    return fit(stages_of(wire), spec, shared)


def stages_of(wire: Any, depth: int = 0) -> Stages:
    """The stages that plain lists describe. Tensors of other specs may have the same ones, with large tables in them.

    Raises
    ------
    ArtifactError
        If the lists do not describe stages.
    DependencyError
        If a stage is not installed.
    """
    if depth >= MAX_DEPTH:
        raise ArtifactError(f"a stack in the file is nested deeper than {MAX_DEPTH} stages")
    if type(wire) is int:
        return wire
    with _sentences("that cannot be"):
        node = msgspec.convert(wire, _Node)
        stage = msgspec.convert(node.config, find_format(node.name, node.version))
        # A field that is left out, or left to be chosen, would mean whatever the default of the day is.
        stored = _stored_config(stage)
        if msgspec.msgpack.decode(msgspec.msgpack.encode(stored)) != node.config:
            raise SpecError(
                f"{node.name} is not configured as a file does it, by {' and '.join(stored) or 'no fields'}"
            )
        if isinstance(stage, Packer):
            if node.planes is not None:
                raise SpecError(f"{node.name}: packers have no planes below them")
            return Unfitted(stage, None)
        if not stage.settled:
            raise SpecError(f"{node.name} has a choice left open")
    return Unfitted(stage, [stages_of(below, depth + 1) for below in node.planes or []])


def fit(stages: Stages, spec: PlaneSpec, shared: Sequence[PlaneSpec] = ()) -> Stack:
    """The stack that stages of a file are for a tensor with this spec; see `from_wire`.

    Raises
    ------
    ArtifactError
        If a stage does not take its plane, or has another number of planes below it than it makes, or if a shared plane is
        not there or not what the stage above makes.
    """
    if isinstance(stages, int):
        return _fit_reference(stages, spec, shared)
    stage = stages.stage
    with _sentences(f"that does not fit {spec}"):
        if isinstance(stage, Packer):
            reason = stage.refusal(spec)
            if reason is not None:
                raise SpecError(f"{stage.name}: {reason}")
            return Leaf(stage)
        specs = stage.plan(spec)
    below = stages.below or []
    if len(below) != len(specs):
        raise ArtifactError(f"{stage.name} makes {len(specs)} planes of {spec}, the file lists {len(below)}")
    children = zip(specs, below, strict=True)
    return Branch(stage, {plane: fit(node, specs[plane], shared) for plane, node in children})


def _fit_reference(number: int, spec: PlaneSpec, shared: Sequence[PlaneSpec]) -> Ref:
    if not 0 <= number < len(shared):
        raise ArtifactError(f"its stack refers to shared plane {number}, the file has {len(shared)}")
    if shared[number] != spec:
        raise ArtifactError(
            f"its stack needs {spec} where it refers to shared plane {number}, which is {shared[number]}"
        )
    return Ref(shared_name(number))


@contextlib.contextmanager
def _sentences(how: str) -> Iterator[None]:
    """Turn whatever a stage makes of numbers that no encoder would write into a sentence about the file."""
    try:
        yield
    except StackcError as error:
        if not isinstance(error, SpecError):
            raise
        raise ArtifactError(f"the file describes a stack {how}: {error}") from error
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise ArtifactError(f"the file describes a stack {how}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def replace(stack: Stack, path: str, node: Stack) -> Stack:
    """The same tree with another node at a path.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> raw, zstd = Leaf(find("raw").stage()), Leaf(find("zstd").stage())
    >>> replace(raw, "", zstd) == zstd
    True
    """
    if not path:
        return node
    if not isinstance(stack, Branch):
        raise StackcError(f"the stack has no plane {path!r}")
    head, _, rest = path.partition("/")
    return Branch(stack.transform, {**stack.planes, head: replace(stack.planes[head], rest, node)})


def with_transforms(stack: Stack, transforms: Mapping[str, Transform], path: str = "") -> Stack:
    """The same tree with other transforms at some paths, which make the same planes."""
    if not isinstance(stack, Branch) or not transforms:
        return stack
    planes = {plane: with_transforms(child, transforms, join(path, plane)) for plane, child in stack.planes.items()}
    return Branch(transforms.get(path, stack.transform), planes)


def branches(stack: Stack, path: str = "") -> list[str]:
    """Paths of the planes that a tree splits, from the root down.

    Examples
    --------
    >>> from stackc.core.registry import find_packer
    >>> branches(Leaf(find_packer("raw")))
    []
    """
    if not isinstance(stack, Branch):
        return []
    below = [found for plane, child in stack.planes.items() for found in branches(child, join(path, plane))]
    return [path, *below]


def node_at(stack: Stack, path: str) -> Stack:
    """The part of a tree below a path.

    Raises
    ------
    StackcError
        If there is no such plane.
    """
    for plane in path.split("/") if path else ():
        if not isinstance(stack, Branch) or plane not in stack.planes:
            raise StackcError(f"the stack has no plane {path!r}")
        stack = stack.planes[plane]
    return stack


def packer_at(stack: Stack, path: str) -> Packer:
    """The packer of the leaf at a path.

    Examples
    --------
    >>> from stackc.core.registry import find_packer
    >>> packer_at(Leaf(find_packer("raw")), "").name
    'raw'
    """
    stack = node_at(stack, path)
    if isinstance(stack, Branch):
        raise StackcError(f"{stack.transform.name} splits the plane {path!r} of the stack further")
    if isinstance(stack, Ref):
        raise StackcError(
            f"the plane {path!r} of the stack is the shared plane {stack.plane!r}, which has its own stack"
        )
    return stack.packer


def is_factor(stack: Stack, path: str) -> bool:
    """Whether a plane multiplies blocks of another one, as a scale does, or holds what is left of such a plane.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> raw = Leaf(find("raw").stage())
    >>> scaled = Branch(find("int").stage(), {"codes": raw, "scale": raw})
    >>> is_factor(scaled, "scale"), is_factor(scaled, "codes"), is_factor(scaled, "")
    (True, False, False)
    """
    factor = False
    for plane in path.split("/") if path else ():
        if not isinstance(stack, Branch):
            raise StackcError(f"the stack has no plane {path!r}")
        transform, stack = stack.transform, stack.planes[plane]
        factor = plane in transform.factors or (factor and plane not in transform.side)
    return factor


def is_side(stack: Stack, path: str) -> bool:
    """Whether a plane is side information of a transform, or made of such a plane.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> raw = Leaf(find("raw").stage())
    >>> made = Branch(find("seed").stage(rank=2, center=False), {"basis": raw, "scores": raw})
    >>> is_side(made, "basis"), is_side(made, "scores"), is_side(made, "")
    (True, False, False)
    """
    for plane in path.split("/") if path else ():
        if not isinstance(stack, Branch):
            raise StackcError(f"the stack has no plane {path!r}")
        if plane in stack.transform.side:
            return True
        stack = stack.planes[plane]
    return False


class SidePlane(NamedTuple):
    """A plane of side information with what it is stored as, and whether it multiplies blocks of others."""

    path: str
    spec: PlaneSpec
    stack: Stack
    factor: bool


def side_planes(stack: Stack, spec: PlaneSpec, path: str = "") -> Iterator[SidePlane]:
    """The planes of side information that the transforms of a tree make, each as one plane, however it is stored.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> raw, int8 = Leaf(find("raw").stage()), find("int8").stage()
    >>> scaled = Branch(int8, {"codes": raw, "scale": Branch(find("cast").stage(to="float16"), {"values": raw})})
    >>> [(side.path, side.factor) for side in side_planes(scaled, PlaneSpec((3, 5), "float32"))]
    [('scale', True)]
    """
    if not isinstance(stack, Branch):
        return
    specs = plan_of(stack.transform, spec)
    for plane, child in stack.planes.items():
        below = join(path, plane)
        if isinstance(child, Ref):  # which is looked at where it stands
            continue
        if plane in stack.transform.side:
            yield SidePlane(below, specs[plane], child, plane in stack.transform.factors)
        else:
            yield from side_planes(child, specs[plane], below)


def describe(stack: Stack) -> str:
    """One line for people: ``prune(values: seed(...), mask: raw)``; a shared plane is its name.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> describe(Branch(find("seed").stage(rank=2, center=False), {"basis": Ref("@0"), "scores": Leaf(find("raw").stage())}))
    'seed(basis: @0, scores: raw)'
    """
    if isinstance(stack, Leaf):
        return stack.packer.name
    if isinstance(stack, Ref):
        return stack.plane
    inner = ", ".join(f"{plane}: {describe(child)}" for plane, child in stack.planes.items())
    return f"{stack.transform.name}({inner})"
