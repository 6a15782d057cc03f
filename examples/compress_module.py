"""Compress a module of your own, and put the decoded weights back into a new one.

python examples/compress_module.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import stackc
from stackc.reporting.table import byte_table, stage_table


class Tagger(nn.Module):
    """Embedding, two layers, one score per tag. Nothing in it knows about stackc."""

    def __init__(self, words: int = 2000, width: int = 64, tags: int = 12) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, tags)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores of the tags, shape ``(*ids.shape, tags)``."""
        scores: torch.Tensor = self.output(torch.relu(self.hidden(self.embedding(ids))))
        return scores


RECIPE = {
    "stages": [
        {"use": "prune", "on": "embedding.weight", "rows": 0.25},
        {"use": "int", "bits": 6},
        {"use": "ans", "on": "*/{codes,mask}"},
        {"use": "zstd", "level": 19},
    ]
}


def main() -> None:
    """Compress, show the report, load again and compare."""
    torch.manual_seed(0)
    model = Tagger().eval()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tagger.stackc"
        artifact, report = stackc.compress(model, RECIPE, path)
        artifact.close()
        console.print(stage_table(report))
        console.print(byte_table(report))

        # A module has no config that could rebuild it, so the file holds its tensors and you bring the class.
        again = Tagger().eval()
        with stackc.open(path) as artifact:
            again.load_state_dict(artifact.state_dict())
    ids = torch.arange(200).reshape(10, 20)
    with torch.inference_mode():
        same = (model(ids).argmax(-1) == again(ids).argmax(-1)).double().mean()
    console.print(f"{report.file.bytes:,} of {report.model.bytes:,} bytes; {float(same):.1%} of the tags are the same")


if __name__ == "__main__":
    main()
