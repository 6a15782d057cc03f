"""The same encoding in another process, with another number of threads and another hash seed.

`encode_elsewhere` asks two processes that run `main`; both sides speak JSON, a line at a time. One plans and must not
load torch for it, the other encodes. They serve one stage after another, since importing torch takes seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from stackc.core.abilities import settle_each
from stackc.core.packer import Packer
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Transform, Weighted
from stackc.testing.check import require
from stackc.util.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

_TIMEOUT_SECONDS = 180


class SentPlane(msgspec.Struct):
    """A plane on its way to the other process."""

    name: str
    spec: PlaneSpec
    data: bytes


class Request(msgspec.Struct):
    """What the other process shall encode."""

    module: str
    qualname: str
    config: dict[str, Any]
    threads: int
    planes: list[SentPlane]


class Answer(msgspec.Struct):
    """Digests by plane name, the heavy modules that were loaded once all specs had been planned, and what went wrong."""

    digests: dict[str, str] = {}
    loaded: list[str] = []
    failure: str = ""


def encode_elsewhere(stage: Transform | Packer, planes: dict[str, tuple[PlaneSpec, Tensor]]) -> Answer:
    """Encode planes in a new process.

    Parameters
    ----------
    stage : Transform or Packer
        Its class must be importable by name.
    planes : dict of str to (PlaneSpec, Tensor)
        Planes that the stage takes. They travel in C order, so the new process sees contiguous tensors.

    Returns
    -------
    Answer
        Digest of each encoded plane, to be compared with `digest`.

    Raises
    ------
    AssertionError
        If the class is not importable or the process fails.
    """
    from stackc.core.planes import to_bytes
    from stackc.util.lazy import torch

    kind = type(stage)
    require(
        "<locals>" not in kind.__qualname__ and kind.__module__ != "__main__",
        f"{kind.__qualname__} is defined inside a function or script, so that no other process can import it; "
        "move it to a module",
    )
    request = Request(
        module=kind.__module__,
        qualname=kind.__qualname__,
        config=msgspec.to_builtins(stage),
        threads=2 if torch.get_num_threads() == 1 else 1,
        planes=[SentPlane(name, spec, to_bytes(x)) for name, (spec, x) in planes.items()],
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONHASHSEED": "4711",
    }
    planned, encoded = (_Process.of(work, environment).ask(request) for work in ("plan", "encode"))
    if planned.loaded:  # a fresh one has to show what the next stage loads
        _Process.forget("plan")
    failure = planned.failure or encoded.failure
    require(not failure, f"{kind.__qualname__} fails in a new process: {failure[-600:]}")
    return Answer(encoded.digests, planned.loaded)


class _Process:
    """A Python that does one kind of work until it fails, or until this one ends."""

    _running: ClassVar[dict[str, _Process]] = {}

    def __init__(self, work: str, environment: dict[str, str]) -> None:
        self.environment = environment
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from stackc.testing.child import main; main(sys.argv[1])", work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    @classmethod
    def of(cls, work: str, environment: dict[str, str]) -> _Process:
        """The one that does this work in this environment."""
        known = cls._running.get(work)
        if known is None or known.environment != environment or known._process.poll() is not None:
            cls.forget(work)
            known = cls._running[work] = cls(work, environment)
            if len(cls._running) == 1:
                atexit.register(cls.forget_all)
        return known

    @classmethod
    def forget(cls, work: str) -> None:
        """End one."""
        known = cls._running.pop(work, None)
        if known is not None:
            known._process.kill()
            known._process.communicate()
            known._errors.close()

    @classmethod
    def forget_all(cls) -> None:
        """End all."""
        for work in list(cls._running):
            cls.forget(work)

    def ask(self, request: Request) -> Answer:
        """What it answers; what it wrote to its standard error if it dies of the question, or takes too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        overdue = threading.Timer(_TIMEOUT_SECONDS, self._process.kill)
        overdue.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(msgspec.json.encode(request) + b"\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            overdue.cancel()
        if line:
            return msgspec.json.decode(line, type=Answer)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return Answer(failure=said or f"it ended with status {self._process.returncode}")


def digest(stage: Transform | Packer, spec: PlaneSpec, x: Tensor) -> str:
    """SHA-256 of what the stage makes of a plane: names, specs and bits; an unsettled transform is settled on it."""
    from stackc.core.planes import to_bytes

    digest = hashlib.sha256()
    if isinstance(stage, Packer):
        digest.update(stage.pack(x, spec))
        return digest.hexdigest()
    settled = settle_each(stage, {"x": Weighted(x)})["x"]
    digest.update(msgspec.json.encode(settled))
    for name, plane in settled.encode(x).items():
        digest.update(f"{name}: {PlaneSpec.of(plane)};".encode())
        digest.update(to_bytes(plane))
    return digest.hexdigest()


def main(work: str) -> None:
    """Answer every line of standard input with a line of standard output; what stages print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        kind: Any = importlib.import_module(request.module)
        for attribute in request.qualname.split("."):
            kind = getattr(kind, attribute)
        stage: Transform | Packer = msgspec.convert(request.config, kind)
        answer = _planned(stage, request) if work == "plan" else _encoded(stage, request)
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


def _planned(stage: Transform | Packer, request: Request) -> Answer:
    for sent in request.planes:
        if isinstance(stage, Packer):
            stage.refusal(sent.spec)
        else:
            stage.plan(sent.spec)
    if isinstance(stage, Transform):
        with contextlib.suppress(SpecError):  # most refuse this one, which is another way through the planner
            stage.plan(PlaneSpec((), "int64"))
    return Answer(loaded=[module for module in ("torch", "numpy") if module in sys.modules])


def _encoded(stage: Transform | Packer, request: Request) -> Answer:
    from stackc.core.planes import from_bytes
    from stackc.util.lazy import torch

    torch.set_num_threads(request.threads)
    return Answer({sent.name: digest(stage, sent.spec, from_bytes(sent.data, sent.spec)) for sent in request.planes})
