"""The models outside of a program that planes of it lie in."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stackc.artifact.bases import Base
from stackc.artifact.reader import Artifact
from stackc.artifact.writer import ArtifactWriter
from stackc.core.abilities import Outside
from stackc.core.spec import PlaneSpec
from stackc.models import Reference, open_reference
from stackc.planning.plan import Plan
from stackc.recipe.recipe import Recipe
from stackc.util.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor


class BaseModel:
    """A model that stages name as the one that tensors differ from.

    Parameters
    ----------
    reference : Reference
        The model, opened.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    @functools.cached_property
    def fingerprint(self) -> str:
        """Its fingerprint; reads all of its weights, the first time."""
        return self.reference.fingerprint()

    @property
    def base(self) -> Base:
        """What a file says of it."""
        return Base.of(self.reference, self.fingerprint)

    @property
    def specs(self) -> dict[str, PlaneSpec]:
        """What its tensors look like, by all of their names."""
        specs = self.reference.specs
        return specs | {other: specs[first] for other, first in self.reference.ties.items()}

    def tensor(self, name: str) -> Tensor:
        """Read a tensor by any of its names."""
        return self.reference.tensor(self.reference.ties.get(name, name))


def base_of(recipe: Recipe, index: int) -> str | None:
    """The model that a stage names as its base; None for a stage that has none.

    Raises
    ------
    RecipeError
        If it should name one.
    """
    config = recipe.stages[index].config
    if not isinstance(config, Outside):
        return None
    if not config.base:
        raise RecipeError(
            f"stages[{index}] ({recipe.stages[index].use}) does not say which model the tensors differ from; name it with "
            "'base', as 'model' names models"
        )
    return config.base


def open_bases(recipe: Recipe) -> dict[str, BaseModel]:
    """The models that stages of a recipe name as bases, by that name; reads no weights.

    Raises
    ------
    RecipeError
        If a stage should name one.
    ModelError
        If there is no such model, or it is code that may not run.
    """
    found: dict[str, BaseModel] = {}
    for index, stage in enumerate(recipe.stages):
        name = base_of(recipe, index)
        if name is None or name in found:
            continue
        try:
            found[name] = BaseModel(open_reference(name, allow_code=recipe.allow_code))
        except ModelError as error:
            raise ModelError(f"stages[{index}] ({stage.use}): base: {error}") from error
    return found


def base_fingerprints(recipe: Recipe, bases: Mapping[str, BaseModel]) -> dict[str, str]:
    """Fingerprint of the base of each stage that has one, by the stage's number, as a lock file holds it."""
    named = {str(index): base_of(recipe, index) for index in range(len(recipe.stages))}
    return {index: bases[name].fingerprint for index, name in named.items() if name is not None}


def open_with_bases(path: Path, bases: Iterable[BaseModel]) -> Artifact:
    """Open a file that was made with these bases, of which it may need some."""
    artifact = Artifact(path)
    needed = {base.sha256 for base in artifact.bases}
    for base in bases:
        if needed and base.fingerprint in needed:
            artifact.attach(base.reference, fingerprint=base.fingerprint)
    return artifact


def add_outside(writer: ArtifactWriter, plan: Plan, bases: Mapping[str, BaseModel]) -> None:
    """Tell a file of all planes that lie in other models; those that it does not refer to are left out of it."""
    for plane in plan.outside.values():
        writer.add_outside(plane.name, plane.spec, bases[plane.base].base, plane.tensor)


class StandingPlanes(Mapping[str, "Tensor"]):
    """The planes that stacks refer to, by name: those that stages have found, and those of other models.

    The latter are read each time that they are asked for.

    Parameters
    ----------
    found : mapping
        Planes that tensors share.
    plan : Plan
        Knows which planes lie in other models.
    bases : mapping
        These models, by the name that recipes have for them.
    """

    def __init__(self, found: Mapping[str, Tensor], plan: Plan, bases: Mapping[str, BaseModel]) -> None:
        self._found = found
        self._outside = plan.outside
        self._bases = bases

    def __getitem__(self, name: str) -> Tensor:
        plane = self._outside.get(name)
        return self._found[name] if plane is None else self._bases[plane.base].tensor(plane.tensor)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._found, *self._outside))

    def __len__(self) -> int:
        return len(self._found) + len(self._outside)
