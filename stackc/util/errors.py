"""Every error that stackc raises on purpose.

Each message is one sentence that says what was wrong, where, and what would work. The command line prints the message
alone; code can catch `StackcError` for all of them.
"""

from __future__ import annotations


class StackcError(Exception):
    """Base class of the errors that a user can mend."""


class RecipeError(StackcError):
    """A recipe that does not parse or validate: the message holds the path (``stages[2].bits``) and the line."""


class SpecError(StackcError):
    """A transform or packer refuses a plane because of its shape, dtype or bounds."""


class PlanError(StackcError):
    """The stages of a recipe do not fit the model: the message names the stage, the tensor and what would fit."""


class ModelError(StackcError):
    """A reference model cannot be found, read or built."""


class DataError(StackcError):
    """Task data or row weights are missing or malformed."""


class TensorError(StackcError):
    """A weight cannot be encoded: it holds NaN or infinity, or an encoder did not keep its plan."""


class ArtifactError(StackcError):
    """A file is not a stackc artifact, is truncated or damaged, or needs a newer stackc."""


class BaseNeededError(ArtifactError):
    """A tensor cannot be decoded without another model, which the message names."""


class OutputError(StackcError):
    """A result cannot be written: it exists already, or the disk is full or read-only."""


class DependencyError(StackcError):
    """An optional package or plugin is not installed: the message names what to install."""
