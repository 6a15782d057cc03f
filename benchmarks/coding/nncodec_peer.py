"""NNCodec (ISO/IEC 15938-17) as a peer: its arithmetic coder on given integers, and its whole path on a state dict.

NNCodec's ``compress`` and ``decompress`` of a dict of arrays need neither its data sets nor its model zoo, but importing
the package loads both (torchvision, OpenCV ...). An empty module stands in for them, so that the compiled coder and these
two functions are all that has to be installed: ``pip install --no-deps nncodec==2.1.3``, with pybind11 to compile it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

#: Flags of "greater than" that are coded with contexts; what NNCodec's own encoder passes (``cabac_unary_length_minus1 + 1``).
UNARY_LENGTH = 11
#: NNCodec's own default for vectors: biases and LayerNorm parameters are coded finely.
NONWEIGHT_QP = -75
#: Steps are ``2 ** (qp / 4)`` at powers of two, linear between them.
QP_DENSITY = 2


def _coder() -> Any:
    if "nncodec.framework" not in sys.modules:
        empty: Any = types.ModuleType("nncodec.framework")
        empty.pytorch_model = empty.tensorflow_model = empty.use_case_init = None
        sys.modules["nncodec.framework"] = empty
    from nncodec.extensions import deepCABAC

    return deepCABAC


def installed_version() -> str:
    """Version of the installed package."""
    return version("nncodec")


def _off(coder: Any) -> tuple[Any, np.ndarray]:
    """Switches off the history-dependent contexts, which are for successive updates of one model."""
    return coder.HdspMode.AlwaysOff, np.zeros(2, np.int8)


def encode_integers(codes: np.ndarray, *, dependent: bool = False, alphabet: tuple[int, int] | None = None) -> bytes:
    """NNCodec's arithmetic coder with its defaults: search of the contexts' start values and windows, row skipping.

    Parameters
    ----------
    codes : ndarray of int32
        What to code; the first axis counts rows.
    dependent : bool
        Whether the codes come from the trellis of `quantise`; contexts then depend on its state.
    alphabet : (int, int), optional
        Smallest and largest code, for the form that NNCodec uses for indices into a codebook: decisions that the alphabet
        leaves no choice in are not coded.
    """
    coder = _coder()
    codes = np.ascontiguousarray(codes, np.int32)
    encoder = coder.Encoder()
    encoder.initCtxModels(UNARY_LENGTH, 1)
    zero_rows = (~codes.reshape(codes.shape[0], -1).any(axis=1)).astype(np.int32)
    size, offset = (0, 0) if alphabet is None else (alphabet[1] - alphabet[0] + 1, -alphabet[0])
    encoder.encodeLayer(codes, int(dependent), 0, 1, 0, 1, zero_rows, *_off(coder), size, offset)
    return bytes(encoder.finish().tobytes())


def decode_integers(
    data: bytes, shape: tuple[int, ...], *, dependent: bool = False, alphabet: tuple[int, int] | None = None
) -> np.ndarray:
    """The codes again, int32."""
    coder = _coder()
    decoder = coder.Decoder()
    decoder.setStream(np.frombuffer(data, np.uint8))
    decoder.initCtxModels(UNARY_LENGTH)
    codes = np.zeros(shape, np.int32)
    size, offset = (0, 0) if alphabet is None else (alphabet[1] - alphabet[0] + 1, -alphabet[0])
    decoder.decodeLayer(codes, int(dependent), 0, 1, 0, *_off(coder), size, offset)
    return codes


def quantise(weights: np.ndarray, qp: int, *, dependent: bool = True, lambda_scale: float = 0.0) -> np.ndarray:
    """NNCodec's quantiser: its 8-state trellis, or rounding without it.

    ``lambda_scale`` 0 is its default: the trellis minimises the error alone. Above 0 it weighs the rate, too.
    """
    coder = _coder()
    encoder = coder.Encoder()
    encoder.initCtxModels(UNARY_LENGTH - 1, 0)
    weights = np.ascontiguousarray(weights, np.float32)
    codes = np.zeros(weights.shape, np.int32)
    used = encoder.quantLayer(weights, codes, int(dependent), QP_DENSITY, qp, lambda_scale, UNARY_LENGTH - 1, 0, 1)
    if used != qp:
        raise ValueError(f"NNCodec changed the quantisation parameter from {qp} to {used}")
    return codes


def dequantise(codes: np.ndarray, qp: int) -> np.ndarray:
    """Weights of codes of `quantise`, float32."""
    weights = np.zeros(codes.shape, np.float32)
    _coder().Decoder().dequantLayer(weights, codes, QP_DENSITY, qp, 0)
    return weights


def compress(state: Mapping[str, np.ndarray], qp: int, *, lambda_scale: float = 0.0, opt_qp: bool = False) -> bytes:
    """A state dict as one bitstream, with NNCodec's defaults but for the arguments: trellis, row skipping, start values."""
    _coder()
    from nncodec import nnc

    stream = nnc.compress(
        dict(state),
        bitstream_path=None,
        qp=qp,
        qp_density=QP_DENSITY,
        nonweight_qp=NONWEIGHT_QP,
        use_dq=True,
        param_opt=True,
        row_skipping=True,
        opt_qp=opt_qp,
        lambda_scale=lambda_scale,
        return_bitstream=True,
    )
    return bytes(stream)


def decompress(data: bytes) -> dict[str, np.ndarray]:
    """The decoded state dict."""
    _coder()
    from nncodec import nnc

    return dict(nnc.decompress(bytearray(data)))
