"""Opening a folder or a file imports neither torch nor transformers, and takes milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys, time
from stackc.models import open_reference
seconds = []
for source in sys.argv[1:]:
    start = time.perf_counter()
    reference = open_reference(source)
    assert reference.specs and reference.nbytes and reference.parameters
    seconds.append(time.perf_counter() - start)
heavy = [name for name in ("torch", "numpy", "transformers", "huggingface_hub", "safetensors") if name in sys.modules]
print(json.dumps({"heavy": heavy, "seconds": seconds}))
"""


def test_planning_imports_nothing_heavy(classifier: Path) -> None:
    sources = [str(classifier), str(classifier / "model.safetensors")]
    run = subprocess.run([sys.executable, "-c", SCRIPT, *sources], capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    assert report["heavy"] == []
    assert max(report["seconds"]) < 0.05


def test_hashing_needs_no_torch(classifier: Path) -> None:
    script = (
        "import sys; from stackc.models import open_reference; print(open_reference(sys.argv[1]).fingerprint());"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", script, str(classifier)], capture_output=True, text=True, check=True)
    assert len(run.stdout.strip()) == 64
