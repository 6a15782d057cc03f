"""Shapes of a BERT-tiny classifier, for planning without weights."""

from __future__ import annotations

from stackc.core.spec import PlaneSpec


def bert_tiny_specs() -> dict[str, PlaneSpec]:
    """Spec of every tensor of google/bert_uncased_L-2_H-128_A-2 with a two-class head."""
    hidden, inner, vocabulary, positions = 128, 512, 30522, 512
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (vocabulary, hidden),
        "bert.embeddings.position_embeddings.weight": (positions, hidden),
        "bert.embeddings.token_type_embeddings.weight": (2, hidden),
        **_norm("bert.embeddings.LayerNorm", hidden),
    }
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            shapes |= _linear(f"{at}.attention.self.{part}", hidden, hidden)
        shapes |= _linear(f"{at}.attention.output.dense", hidden, hidden)
        shapes |= _norm(f"{at}.attention.output.LayerNorm", hidden)
        shapes |= _linear(f"{at}.intermediate.dense", inner, hidden)
        shapes |= _linear(f"{at}.output.dense", hidden, inner)
        shapes |= _norm(f"{at}.output.LayerNorm", hidden)
    shapes |= _linear("bert.pooler.dense", hidden, hidden)
    shapes |= _linear("classifier", 2, hidden)
    return {name: PlaneSpec(shape, "float32") for name, shape in shapes.items()}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
