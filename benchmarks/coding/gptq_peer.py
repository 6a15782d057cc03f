"""GPTQ as a peer: integers of fixed width with scales per row or per group, chosen with second moments of the inputs.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers". As there: asymmetric
codes, the range of each group shrunk to where its error is smallest (norm 2.4), columns in order of decreasing second
moment, damping 1 %, layers quantised one after another on the inputs that the quantised ones before them give. An
embedding sees one-hot inputs, for which GPTQ is plain rounding. Vectors and the classifier stay float16. The file is
safetensors of codes, packed zero points and float16 scales, compressed with zstd -19; codes are bit-packed or one a byte,
whichever file is smaller.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import zstandard
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

DAMPING = 0.01
NORM = 2.4
SHRINKS = np.linspace(1.0, 0.25, 26)


def compress(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], *, bits: int, group: int | None) -> bytes:
    """A Hugging Face BERT classifier as one file; ``model`` is changed to what the file decodes to.

    Parameters
    ----------
    model : torch.nn.Module
        The reference's.
    batches : iterable
        Tokenised calibration texts.
    bits : int
        Of a code.
    group : int, optional
        Columns that share a scale; without it a row does.
    """
    model.eval()
    batches = list(batches)
    planes: dict[str, Tensor] = {}
    fixed: dict[str, str] = {}

    def store(name: str, codes: Tensor, scales: Tensor, zeros: Tensor) -> None:
        planes[f"{name}/codes"] = codes
        planes[f"{name}/packed"] = _pack(codes, bits)
        planes[f"{name}/scales"] = scales.half()
        planes[f"{name}/zeros"] = _pack(zeros, bits)
        fixed[name] = json.dumps(list(codes.shape))

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                codes, scales, zeros = _quantise(module.weight.float(), None, bits, group)
                store(f"{name}.weight", codes, scales, zeros)
                module.weight.copy_(_values(codes, scales, zeros))
        for layer in _layers(model):
            moments = _moments(model, layer, batches)
            for name, linear in layer.items():
                codes, scales, zeros = _quantise(linear.weight.float(), moments[name], bits, group)
                store(f"{name}.weight", codes, scales, zeros)
                linear.weight.copy_(_values(codes, scales, zeros))
        for name, parameter in model.named_parameters():
            if name not in fixed:
                planes[name] = parameter.half().contiguous()
    bytewise = {name: plane for name, plane in planes.items() if not name.endswith("/packed")}
    packed = {name: plane for name, plane in planes.items() if not name.endswith("/codes")}
    files = [save_tensors(part, {"bits": str(bits), **fixed}) for part in (bytewise, packed)]
    return min((zstandard.ZstdCompressor(level=19).compress(file) for file in files), key=len)


def decompress(data: bytes) -> dict[str, Tensor]:
    """The state dict in a file of `compress`."""
    raw = zstandard.ZstdDecompressor().decompress(data)
    planes = load_tensors(raw)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    bits = int(header["bits"])
    state = {}
    for name, plane in planes.items():
        tensor, _, kind = name.partition("/")
        if not kind:
            state[name] = plane.float()
        elif kind in ("codes", "packed"):
            scales = planes[f"{tensor}/scales"]
            zeros = _unpack(planes[f"{tensor}/zeros"], bits, tuple(scales.shape))
            codes = plane if kind == "codes" else _unpack(plane, bits, tuple(json.loads(header[tensor])))
            state[tensor] = _values(codes, scales, zeros)
    return state


def _layers(model: nn.Module) -> list[dict[str, nn.Linear]]:
    """Linear layers that are quantised together: those of each encoder layer, then the pooler."""
    groups: dict[str, dict[str, nn.Linear]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith("classifier"):
            parts = name.split(".")
            key = ".".join(parts[: parts.index("layer") + 2]) if "layer" in parts else name
            groups.setdefault(key, {})[name] = module
    return list(groups.values())


def _moments(
    model: nn.Module, layer: Mapping[str, nn.Linear], batches: list[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Second moments of the inputs of some linear layers, padding left out."""
    sums = {
        name: torch.zeros(linear.in_features, linear.in_features, dtype=torch.float64) for name, linear in layer.items()
    }
    mask: Tensor | None = None

    def hook(name: str) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0][mask] if inputs[0].dim() == 3 and mask is not None else inputs[0].flatten(0, -2)
            sums[name] += (rows.T @ rows).double()

        return add

    handles = [linear.register_forward_pre_hook(hook(name)) for name, linear in layer.items()]
    for batch in batches:
        mask = batch["attention_mask"].bool()
        model(**batch)
    for handle in handles:
        handle.remove()
    return sums


def _grid(block: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row of a block, the range shrunk to where the error is smallest."""
    top = (1 << bits) - 1
    low, high = block.min(1).values.clamp(max=0), block.max(1).values.clamp(min=0)
    flat = low == high
    low, high = torch.where(flat, -1.0, low), torch.where(flat, 1.0, high)
    best = torch.full_like(low, math.inf)
    scale, zero = torch.zeros_like(low), torch.zeros_like(low)
    for shrink in SHRINKS:
        step = (shrink * (high - low) / top).half().float().clamp(min=2.0**-24)
        offset = torch.round(-shrink * low / step).clamp(0, top)
        codes = torch.clamp(torch.round(block / step[:, None]) + offset[:, None], 0, top)
        error = ((codes - offset[:, None]) * step[:, None] - block).abs().pow(NORM).sum(1)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, step, scale), torch.where(better, offset, zero)
    return scale, zero


def _quantise(weight: Tensor, moments: Tensor | None, bits: int, group: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8), scales and zero points (one of each for a row and group); error feedback if there are moments."""
    rows, columns = weight.shape
    width = columns if group is None or columns % group else group
    top = (1 << bits) - 1
    grids = [_grid(weight[:, start : start + width], bits) for start in range(0, columns, width)]
    scales, zeros = torch.stack([s for s, _ in grids], 1), torch.stack([z for _, z in grids], 1)
    scale, zero = scales.repeat_interleave(width, 1), zeros.repeat_interleave(width, 1)
    if moments is None:
        codes = torch.clamp(torch.round(weight / scale) + zero, 0, top)
        return codes.to(torch.uint8), scales, zeros.to(torch.uint8)
    diagonal = moments.diagonal()
    dead = diagonal == 0
    order = torch.argsort(diagonal, descending=True)
    hessian = moments + torch.diag(dead.double()) + DAMPING * diagonal.mean() * torch.eye(columns, dtype=torch.float64)
    hessian = hessian[order][:, order]
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    rest = weight.double()[:, order].clone()
    scale, zero = scale[:, order].double(), zero[:, order].double()
    codes = torch.empty(rows, columns, dtype=torch.float64)
    for column in range(columns):
        value = rest[:, column]
        code = torch.clamp(torch.round(value / scale[:, column]) + zero[:, column], 0, top)
        codes[:, column] = code
        error = (value - (code - zero[:, column]) * scale[:, column]) / inverse[column, column]
        rest[:, column:] -= error[:, None] * inverse[column, column:]
    return codes[:, torch.argsort(order)].to(torch.uint8), scales, zeros.to(torch.uint8)


def _values(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    width = codes.shape[1] // scales.shape[1]
    scale = scales.half().float().repeat_interleave(width, 1)
    return (codes.float() - zeros.float().repeat_interleave(width, 1)) * scale


def _pack(codes: Tensor, bits: int) -> Tensor:
    """Fixed-width codes end to end, first bit lowest."""
    digits = np.unpackbits(codes.to(torch.uint8).numpy().reshape(-1, 1), axis=1, bitorder="little")[:, :bits]
    return torch.from_numpy(np.packbits(digits.reshape(-1), bitorder="little"))


def _unpack(data: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    digits = np.unpackbits(data.numpy(), bitorder="little")[: math.prod(shape) * bits].reshape(-1, bits)
    return torch.from_numpy(np.packbits(digits, axis=1, bitorder="little").reshape(shape))
