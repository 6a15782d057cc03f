"""Checkpoints of a training on disk, so that a run that was killed goes on and ends with the same bytes."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from stackc.util.errors import OutputError
from stackc.util.lazy import torch
from stackc.util.output import writing
from stackc.util.partial import atomic_file

#: A killed run loses no more than about so many seconds.
_INTERVAL_SECONDS = 120.0


class Checkpoints:
    """The checkpoint of one training: one file, replaced now and then.

    Parameters
    ----------
    path : Path, optional
        The file; without it nothing is written, and every training begins at the beginning.
    identity : str
        Of everything that the training depends on; a file with another one is not continued.
    resume : bool
        Whether to continue from a file that is there.
    interval : float
        Seconds between two writes.
    """

    def __init__(
        self, path: Path | None, identity: str, *, resume: bool = False, interval: float = _INTERVAL_SECONDS
    ) -> None:
        self._path = path
        self._identity = identity
        self._resume = resume
        self._interval = interval
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The last state that was written, if the run is to go on with it.

        Raises
        ------
        OutputError
            If it belongs to another training, or is damaged.
        """
        if not self._resume or self._path is None or not self._path.is_file():
            return None
        try:
            saved: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch say
            raise OutputError(
                f"the checkpoint {self._path} is damaged ({type(error).__name__}); delete it to begin anew"
            ) from error
        if saved.get("identity") != self._identity:
            raise OutputError(
                f"the checkpoint {self._path} was written by another training (recipe, model, data or versions differ); "
                "run what it was written by, or begin anew without --resume"
            )
        state: dict[str, Any] = saved["state"]
        return state

    def write_now_and_then(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write the state if the last time is long ago."""
        if self._path is not None and time.monotonic() - self._written >= self._interval:
            self.write(state())

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state; the file before stays until this one is complete.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if self._path is None:
            return
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path) as temporary:
                torch.save({"identity": self._identity, "state": dict(state)}, temporary)
        self._written = time.monotonic()


class CheckpointFolder:
    """Where the trainings of one run keep their checkpoints: beside its results, until these are complete.

    Parameters
    ----------
    folder : Path, optional
        None for a run that keeps no checkpoints.
    resume : bool
        Whether the run continues one that was killed.
    """

    def __init__(self, folder: Path | None = None, *, resume: bool = False) -> None:
        self.folder = folder
        self.resume = resume

    @classmethod
    def beside(cls, output: Path, *, resume: bool, overwrite: bool) -> CheckpointFolder:
        """The folder that goes with an output folder.

        Raises
        ------
        OutputError
            If a killed run has left checkpoints there, and neither ``resume`` nor ``overwrite`` says what to do.
        """
        folder = output.parent / f".{output.name}.checkpoints"
        if folder.is_dir() and any(folder.iterdir()) and not resume:
            if not overwrite:
                raise OutputError(
                    f"a run into {output} was stopped and left checkpoints: go on with --resume, or begin anew with --overwrite"
                )
            shutil.rmtree(folder, ignore_errors=True)
        return cls(folder, resume=resume)

    def within(self, name: str) -> CheckpointFolder:
        """A folder in this one, for a control or another seed."""
        return CheckpointFolder(None if self.folder is None else self.folder / name, resume=self.resume)

    def of_stage(self, stage: int, identity: Any) -> Checkpoints:
        """The checkpoint of a stage's training, which depends on ``identity`` (plain data)."""
        digest = hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()
        path = None if self.folder is None else self.folder / f"stage-{stage}.pt"
        return Checkpoints(path, digest, resume=self.resume)

    def remove(self) -> None:
        """Delete everything, at the end of a run."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
