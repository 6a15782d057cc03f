"""The same encoding in another process, with another number of threads and another hash seed.

`encode_elsewhere` starts a Python that runs `main`; both sides speak JSON. One process serves all planes of a
stage, since importing torch takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

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
    """Digests by plane name, and the heavy modules that were loaded once all specs had been planned."""

    digests: dict[str, str]
    loaded: list[str]


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
    result = subprocess.run(
        [sys.executable, "-c", "from stackc.testing.child import main; main()"],
        input=msgspec.json.encode(request),
        capture_output=True,
        timeout=_TIMEOUT_SECONDS,
        env=environment,
        check=False,
    )
    require(
        result.returncode == 0,
        f"{kind.__qualname__} fails in a new process: {result.stderr.decode(errors='replace').strip()[-600:]}",
    )
    return msgspec.json.decode(result.stdout.splitlines()[-1], type=Answer)


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


def main() -> None:
    """Read a request from standard input, write the answer as the last line of standard output."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    kind: Any = importlib.import_module(request.module)
    for attribute in request.qualname.split("."):
        kind = getattr(kind, attribute)
    stage: Transform | Packer = msgspec.convert(request.config, kind)
    for sent in request.planes:
        if isinstance(stage, Packer):
            stage.refusal(sent.spec)
        else:
            stage.plan(sent.spec)
    if isinstance(stage, Transform):
        with contextlib.suppress(SpecError):  # most refuse this one, which is another way through the planner
            stage.plan(PlaneSpec((), "int64"))
    loaded: list[str] = [module for module in ("torch", "numpy") if module in sys.modules]

    from stackc.core.planes import from_bytes
    from stackc.util.lazy import torch

    torch.set_num_threads(request.threads)
    digests = {sent.name: digest(stage, sent.spec, from_bytes(sent.data, sent.spec)) for sent in request.planes}
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(Answer(digests, loaded)) + b"\n")
