"""Read files in processes that may not have much memory or time, as a service that takes files from anywhere would.

One parent imports everything and forks a child for each file, since the imports take seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec


class Outcome(msgspec.Struct):
    """What became of one file.

    Parameters
    ----------
    error : str
        Class of the error; empty if there was none, ``killed`` if the process was.
    message : str
        What the error says.
    seconds : float
        Time in the child.
    grown : int
        Bytes by which the child grew at most, but for code of libraries: a fork maps it anew, as much as the system sees fit.
    connected : list of str
        What the child tried to connect to.
    """

    error: str
    message: str
    seconds: float = 0.0
    grown: int = 0
    connected: list[str] = msgspec.field(default_factory=list)


def read_limited(paths: Sequence[Path], memory: int, seconds: int) -> list[Outcome]:
    """Open, decode, write and build each file, in a child that may take so much memory and time beyond the imports."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.helpers.limited", str(memory), str(seconds), *map(str, paths)],
        capture_output=True,
        timeout=60 + seconds * len(paths),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode(errors="replace")[-2000:]
    return [msgspec.json.decode(line, type=Outcome) for line in result.stdout.splitlines()]


def use_everything(path: Path) -> None:
    """All that a user may do with a file: look at its parts, decode it, write it as a folder, build the model."""
    from stackc.artifact.reader import Artifact
    from stackc.models import save_folder

    with Artifact(path) as artifact:
        config = artifact.config
        for name in artifact.bundled:
            artifact.bundled_file(name)
        state = artifact.state_dict(workers=1)
        save_folder(path.with_suffix(""), config, state)
        if config is not None:
            artifact.build()


def _outcome(path: Path) -> Outcome:
    import resource
    import socket
    import time

    connected: list[str] = []

    def refuse(*arguments: object, **_: object) -> None:
        connected.append(repr(arguments[:2]))
        raise OSError("no network here")

    for owner, function in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        setattr(owner, function, refuse)
    before, code, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, _mapped(), time.monotonic()
    error: BaseException | None = None
    try:
        use_everything(path)
    except BaseException as caught:  # noqa: BLE001 -- a panic of a Rust library is not an Exception
        error = caught
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before - max(_mapped() - code, 0)
    return Outcome(
        type(error).__name__ if error else "",
        str(error) if error else "",
        round(time.monotonic() - start, 2),
        1024 * grown,
        connected,
    )


def _mapped() -> int:
    """Kilobytes of files that are mapped into memory, which is mostly code."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))


def _in_child(path: Path, memory: int, seconds: int) -> Outcome:
    import resource

    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + memory, space + memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        os.write(writer, msgspec.json.encode(_outcome(path)))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return msgspec.json.decode(answer, type=Outcome) if answer else Outcome("killed", f"status {status}")


def main() -> None:
    """Answer for each file with one line of JSON."""
    memory, seconds, *paths = sys.argv[1:]
    import torch
    import transformers

    torch.set_num_threads(1)
    for architecture in ("BertModel", "GPT2Model"):  # transformers imports them when they are first asked for
        getattr(transformers, architecture)
    for path in paths:
        sys.stdout.write(msgspec.json.encode(_in_child(Path(path), int(memory), int(seconds))).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
