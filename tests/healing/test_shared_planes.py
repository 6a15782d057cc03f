"""Planes that tensors share, in training: decoded once for a pass, with the gradients of all users, and stored once."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

import stackc
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Ref, Stack, decode, with_transforms
from stackc.healing import stage as healing_stage
from stackc.healing.latents import SharedTensor, TrainedTensor
from stackc.healing.nodes import Start
from stackc.healing.student import Student
from stackc.planning.encode import walk
from stackc.planning.plan import TensorPlan
from stackc.planning.program import Program
from stackc.planning.settle import settle
from stackc.planning.trained import Hardened
from stackc.recipe.parse import recipe_from
from stackc.testing.planes import bell
from tests.helpers.programs import session_of

Latent = Literal["planes", "dense"]
LATENTS: tuple[Latent, ...] = ("planes", "dense")

GROUPS: dict[str, tuple[dict[str, Any], ...]] = {
    "codebook": ({"use": "codebook", "entries": 9, "group": "all"},),
    "codebook of vectors, in half precision": (
        {"use": "codebook", "entries": 9, "dims": 3, "group": "all"},
        {"use": "fp16", "on": "*/codebook"},
    ),
    "seed": ({"use": "seed", "rank": 4, "group": "all"},),
    "seed, int": (
        {"use": "seed", "rank": 4, "group": "all"},
        {"use": "int", "on": "*/{basis,scores}", "step": 0.05},
    ),
    "seed, codebook": (
        {"use": "seed", "rank": 4, "group": "alike"},
        {"use": "codebook", "entries": 7, "on": "*/basis", "group": "all"},
        {"use": "int", "on": "*/scores", "bits": 6},
    ),
    "share": ({"use": "share", "group": "all"}, {"use": "int", "on": "*/{common,difference}", "bits": 6}),
    "share, seed": ({"use": "share", "group": "all"}, {"use": "seed", "on": "*/difference", "rank": 3, "group": "all"}),
    "share, without difference": ({"use": "share", "difference": False, "group": "all"}, "int8"),
}
USERS = {"a.0": (20, 9), "a.1": (11, 9), "b.0": (20, 9), "b.1": (11, 9)}


class Group:
    """Tensors in their training form, with what they share; ``tied``: once for all of them, else once for each."""

    def __init__(self, stages: tuple[dict[str, Any], ...], latent: Latent, *, tied: bool = True) -> None:
        self.state = {name: 4 * bell(shape, 0, name) for name, shape in USERS.items()}
        recipe = recipe_from({"stages": list(stages)})
        specs = {name: PlaneSpec.of(x) for name, x in self.state.items()}
        session = session_of(self.state)
        self.program = settle(Program.of(recipe, specs), session)
        self.starts = {}
        for tensor in self.program.plan.everything:
            walker = walk(self.program, session, tensor, keep_inputs=True)
            for stage in range(tensor.maker + 1 if tensor.is_shared else 0, len(stages)):
                walker.apply(stage)
            self.starts[tensor.name] = Start({path: plane for path, (_, plane) in walker.planes.items()}, walker.inputs)
        self.latent = latent
        #: Training forms of shared planes, by user (one for all of them if they are tied) and name.
        self.shared: dict[str, dict[str, TrainedTensor]] = {}
        self._values: dict[str, dict[str, SharedTensor]] = {}
        for user in ("all",) if tied else tuple(self.state):
            self.shared[user], self._values[user] = {}, {}
            for plane in reversed(self.program.plan.shared):
                self.shared[user][plane.name] = form = self._form(plane, self._values[user])
                self._values[user][plane.name] = SharedTensor(form)
        self.tensors = {
            tensor.name: self._form(tensor, self._values["all" if tied else tensor.name])
            for tensor in self.program.plan.tensors
        }

    def _form(self, tensor: TensorPlan, shared: dict[str, SharedTensor]) -> TrainedTensor:
        start = self.starts[tensor.name]._replace(shared=shared)
        return TrainedTensor(tensor.stacks[-1], tensor.spec, start, self.latent)

    def values(self) -> dict[str, torch.Tensor]:
        """All tensors, as one pass decodes them."""
        for planes in self._values.values():
            for plane in planes.values():
                plane.forget()
        return {name: form.value() for name, form in self.tensors.items()}

    def shake(self) -> None:
        """Change all that is trained a little, copies of one plane alike."""
        with torch.no_grad():
            for forms in (self.tensors, *self.shared.values()):
                for name, form in forms.items():
                    for path, parameter in form.parameters.items():
                        size = 0.3 if path in form.factors else 0.3 * float(parameter.std(correction=0)) + 0.01
                        parameter += size * bell(tuple(parameter.shape), 2, f"{name}/{path}")

    def decoded(self, hardened: dict[str, Hardened]) -> dict[str, torch.Tensor]:
        """What a file with these planes would decode to."""
        plans = {tensor.name: tensor for tensor in self.program.plan.everything}

        def value(name: str, spec: PlaneSpec) -> torch.Tensor:
            done = hardened[name]
            stack: Stack = with_transforms(plans[name].stacks[-1], done.transforms)

            def plane_at(path: str, planned: PlaneSpec, packer: object) -> torch.Tensor:
                assert planned.mismatch(done.planes[path]) is None
                return done.planes[path]

            return decode(stack, spec, plane_at, value)

        return {name: value(name, plans[name].spec) for name in self.tensors}


@pytest.fixture(params=GROUPS)
def stages(request: pytest.FixtureRequest) -> tuple[dict[str, Any], ...]:
    return GROUPS[request.param]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float(torch.dist(one, other)) <= 1e-5 * float(other.norm())


@pytest.mark.parametrize("latent", LATENTS)
def test_gradients_of_a_shared_plane_are_the_sum_over_its_users(stages: Any, latent: Latent) -> None:
    tied, copies = Group(stages, latent), Group(stages, latent, tied=False)
    for group in (tied, copies):
        group.shake()
        values = group.values()
        loss = sum((values[name].square() * bell(shape, 1, name)).sum() for name, shape in USERS.items())
        assert isinstance(loss, torch.Tensor)
        loss.backward()
    assert tied.shared["all"]
    reached = 0
    for name, form in tied.shared["all"].items():
        for path, parameter in form.parameters.items():
            own = [group[name].parameters[path].grad for group in copies.shared.values()]
            parts = [gradient for gradient in own if gradient is not None]
            reached += len(parts)
            assert parameter.grad is not None, (name, path)
            total = torch.stack(parts).sum(0)  # of halves, where the plane is stored in such
            assert float(torch.dist(parameter.grad, total)) <= 1e-3 * float(total.norm())
    assert reached >= len(USERS), "each tensor has a part in it"
    for name, form in tied.tensors.items():
        for path, parameter in form.parameters.items():
            torch.testing.assert_close(parameter.grad, copies.tensors[name].parameters[path].grad)


@pytest.mark.parametrize("latent", LATENTS)
def test_training_begins_at_what_is_stored_and_ends_at_what_it_saw(stages: Any, latent: Latent) -> None:
    group = Group(stages, latent)
    start = {name: Hardened({}, dict(start.planes), {}) for name, start in group.starts.items()}
    for name, value in group.values().items():
        # Where a later stage rounded the basis, a step that trains the whole tensor looks scores up in what is stored.
        slack = 1e-5 if latent == "planes" or len(stages) == 1 else 0.1
        assert float(torch.dist(value.detach(), group.decoded(start)[name])) <= slack * float(group.state[name].norm())
    group.shake()
    seen = {name: value.detach() for name, value in group.values().items()}
    hardened = {name: form.harden() for name, form in (*group.tensors.items(), *group.shared["all"].items())}
    for name, value in group.decoded(hardened).items():
        assert close(value, seen[name]), name


def test_a_shared_codebook_is_looked_up_where_training_has_moved_it() -> None:
    """Codes are searched in the table of now, for every user."""
    group = Group(GROUPS["codebook"], "planes")
    with torch.no_grad():
        for form in group.shared["all"].values():
            form.parameters[""][-1] = 100.0
            group.tensors["b.0"].parameters[""][3, 3] = 99.0
    assert float(group.values()["b.0"][3, 3].detach()) == 100.0
    assert int(group.tensors["b.0"].harden().planes["codes"][3, 3]) == 8


HEAL = {"use": "heal", "steps": 30, "batch_size": 16, "holdout": 20, "evaluations": 3, "lr": 5e-3}


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(
    "group",
    [
        [{"use": "codebook", "on": "*.dense.weight", "entries": 4, "group": "all"}],
        [
            {"use": "seed", "on": "*.{query,key,value}.weight", "rank": 4, "group": "alike"},
            {"use": "int", "on": "*/{basis,scores}", "step": 0.1},
        ],
    ],
    ids=["codebook", "seed"],
)
def test_a_healed_file_decodes_to_what_training_saw(
    tiny_model: Any, tiny_task: Any, group: list[Any], latent: Latent, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, TrainedTensor] = {}

    class Watched(Student):
        def __init__(self, model: Any, weights: Any, tensors: Any, shared: Any = ()) -> None:
            super().__init__(model, weights, tensors, shared)
            trained.update(tensors)

    monkeypatch.setattr(healing_stage, "Student", Watched)
    price = [{"use": "int", "on": "*.weight", "step": 0.5}, {**HEAL, "latent": latent, "rate": 1e-7}]
    artifact, report = stackc.compress(
        str(tiny_model), {"task": tiny_task, "stages": [*group, *price, {"use": "context", "on": "*/codes"}, "zstd"]}
    )
    (summary,) = report.healing
    curve = {point.step: point.divergence for point in summary.curve}
    assert curve[summary.best_step] < 0.9 * curve[0]
    shared = [name for name in trained if name.startswith("@")]
    assert shared
    assert len(shared) == len(artifact.shared)
    users = 0
    for name, form in trained.items():
        if name in shared:
            continue
        users += any(isinstance(node, Ref) for node in getattr(artifact.stack(name), "planes", {}).values())
        value = form.value().detach()
        assert float(torch.dist(artifact[name], value)) <= 1e-5 * float(value.norm()) + 1e-6, name
    assert users >= 4


def test_only_what_is_trained_everywhere_is_trained(tiny_model: Any, tiny_task: Any) -> None:
    """A codebook that a tensor uses which heal leaves alone stays as it is, and so does that tensor."""
    book = {"use": "codebook", "on": "*.dense.weight", "entries": 4, "group": "all"}
    recipe = {"task": tiny_task, "stages": [book, {**HEAL, "on": "!*layer.1*"}, "zstd"]}
    plain, _ = stackc.compress(str(tiny_model), {**recipe, "stages": [book, "zstd"]})
    healed, _ = stackc.compress(str(tiny_model), recipe)
    assert torch.equal(plain.shared["@0"], healed.shared["@0"])
    moved = {name for name in plain if not torch.equal(plain[name], healed[name])}
    assert any("layer.0" in name and "dense.weight" in name for name in moved)
    assert not any("layer.1" in name for name in moved)
