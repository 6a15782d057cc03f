"""What a mutant may do: give the tensors that its manifest promises, the same ones twice, or one of stackc's errors.

Anything else is a finding: another exception, a tensor of another shape or dtype, other bits on the second reading, a
message that is no sentence, more memory or time than a file of this size can justify, or the end of the process.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from stackc.artifact.reader import Artifact
from stackc.core.planes import to_bytes
from stackc.core.spec import PlaneSpec
from stackc.reporting.accounting import byte_rows
from stackc.util.errors import ArtifactError, DependencyError

#: How far mutants get, in this order.
REACHED = ("refused before the manifest was read", "refused when opened", "refused when decoded", "decoded")

#: Time of the processor and growth of the process that no mutant may need: mutants are a few hundred bytes.
MOST_SECONDS = 5.0
MOST_BYTES = 512 << 20

#: Words of the refusals that come before the manifest is parsed.
_BEFORE = ("magic bytes", "truncated", "format version", "announces a manifest", "checksum of its header", "decompress")


class Verdict(NamedTuple):
    """How far a mutant got, and what is wrong with that."""

    reached: str
    finding: str | None


class Fault(Exception):
    """What the oracle does not allow."""


def judge(path: Path, thorough: bool = False) -> Verdict:
    """Open a file, decode everything in it, and hold what happens against the rules.

    Parameters
    ----------
    path : Path
        The file.
    thorough : bool
        Whether to read it twice and to add up its bytes too.
    """
    peak, started = _peak(), time.process_time()
    try:
        reached, finding = _read(path, thorough), None
    except Fault as fault:
        reached, finding = REACHED[3], str(fault)
    except BaseException as error:  # noqa: BLE001 -- whatever it is, it is a finding
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, {where.name}"
        reached, finding = REACHED[1], f"{type(error).__name__} in {place}: {' '.join(str(error).split())[:200]}"
    seconds, grown = time.process_time() - started, _peak() - peak
    if finding is None and seconds > MOST_SECONDS:
        finding = f"took {seconds:.0f} seconds of processor time"
    if grown > 16 << 20:
        _forget_peak()
        if finding is None and grown > MOST_BYTES:
            finding = f"took {grown >> 20} MiB of memory"
    return Verdict(reached, finding)


def _read(path: Path, thorough: bool) -> str:
    try:
        artifact = Artifact(path)
    except (ArtifactError, DependencyError) as error:
        message = _sentence(error, path)
        return REACHED[0] if any(word in message for word in _BEFORE) else REACHED[1]
    refused = None
    with artifact:
        for name in artifact:
            try:
                _decode(artifact, name, thorough)
            except (ArtifactError, DependencyError) as error:
                refused = _sentence(error, path)
        for name in artifact.bundled:
            try:
                if len(artifact.bundled_file(name)) != artifact.manifest.bundle[name][1]:
                    raise Fault("a bundled file has another length than the manifest says")
            except (ArtifactError, DependencyError) as error:
                refused = _sentence(error, path)
        if thorough and refused is None:
            total = sum(row.bytes for row in byte_rows(artifact))
            if total != path.stat().st_size:
                raise Fault(f"byte_rows add up to {total} bytes")
    return REACHED[2] if refused else REACHED[3]


def _decode(artifact: Artifact, name: str, thorough: bool) -> None:
    tensor = artifact[name]
    spec, made = artifact.specs[artifact.ties.get(name, name)], PlaneSpec.of(tensor)
    if (made.shape, made.dtype) != (spec.shape, spec.dtype):
        raise Fault(f"a tensor of {spec} decodes to {made}")
    if thorough and to_bytes(artifact[name]) != to_bytes(tensor):
        raise Fault("a tensor decodes to other bits the second time")


def _sentence(error: Exception, path: Path) -> str:
    message = str(error)
    if not message or "\n" in message or len(message) > 4000:
        raise Fault(f"the message of {type(error).__name__} is no sentence: {message[:80]!r}")
    return message


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak() -> None:
    """Start to measure again, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
