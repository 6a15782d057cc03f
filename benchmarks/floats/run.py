"""Lossless compression of a model's real tensors: ``floats`` beside Zstandard, byte planes with Zstandard, ZipNN and OpenZL.

    pip install zipnn==0.5.4 openzl==0.3.0
    python benchmarks/floats/run.py FOLDER [FOLDER ...] [--repeat 3] [--damage 20]

Each tensor is compressed on its own, as in a file of stackc, in float32, bfloat16 and float16. All run in this process on
one thread and take turns; times are processor seconds, the best of the repeats (level 19 runs once). Every result is
decompressed and compared. With ``--damage N``, N processes of each codec read damaged bytes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import openzl.ext as openzl
import torch
import zipnn
import zstandard
from safetensors import safe_open

from stackc.core.planes import to_bytes
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec

DTYPES = ("float32", "bfloat16", "float16")


class Codec(NamedTuple):
    """Compresses one tensor and gives its bytes back."""

    compress: Callable[[torch.Tensor], bytes]
    decompress: Callable[[bytes, torch.Tensor], bytes]
    repeats: bool = True


def codecs(dtype: str) -> dict[str, Codec]:
    """All codecs for tensors of a dtype."""
    spec_of = PlaneSpec.of
    floats = find("floats").stage()
    return {
        "zstd -3": _zstd(3),
        "zstd -19": _zstd(19)._replace(repeats=False),
        "byte planes, zstd -3": _byte_planes(3),
        "byte planes, zstd -19": _byte_planes(19)._replace(repeats=False),
        "ZipNN": Codec(
            lambda x: bytes(_zipnn(dtype).compress(bytearray(to_bytes(x)))),
            lambda data, x: bytes(_zipnn(dtype).decompress(data)),
        ),
        "OpenZL": _openzl(dtype),
        "floats": Codec(
            lambda x: floats.pack(x, spec_of(x)), lambda data, x: to_bytes(floats.unpack(data, spec_of(x)))
        ),
    }


def _zstd(level: int) -> Codec:
    return Codec(
        lambda x: zstandard.ZstdCompressor(level=level).compress(to_bytes(x)),
        lambda data, x: zstandard.ZstdDecompressor().decompress(data),
    )


def _byte_planes(level: int) -> Codec:
    def compress(x: torch.Tensor) -> bytes:
        content = numpy.frombuffer(to_bytes(x), numpy.uint8).reshape(-1, x.element_size()).T.tobytes()
        return zstandard.ZstdCompressor(level=level).compress(content)

    def decompress(data: bytes, x: torch.Tensor) -> bytes:
        content = numpy.frombuffer(zstandard.ZstdDecompressor().decompress(data), numpy.uint8)
        return content.reshape(x.element_size(), -1).T.tobytes()

    return Codec(compress, decompress)


def _zipnn(dtype: str) -> Any:
    return zipnn.ZipNN(bytearray_dtype=dtype, input_format="byte", threads=1)


def _openzl(dtype: str) -> Codec:
    """Exponents to its entropy coder, the bytes of sign and mantissa each to whatever it finds best."""
    nodes = {"float32": "Float32Deconstruct", "bfloat16": "BFloat16Deconstruct", "float16": "Float16Deconstruct"}
    words = numpy.dtype(f"<u{4 if dtype == 'float32' else 2}")
    compressor = openzl.Compressor()
    rest = openzl.nodes.TransposeSplit()(compressor, openzl.graphs.Compress())
    graph = getattr(openzl.nodes, nodes[dtype])()(compressor, rest, openzl.graphs.Entropy())
    compressor.select_starting_graph(graph)

    def compress(x: torch.Tensor) -> bytes:
        context = openzl.CCtx()
        context.ref_compressor(compressor)
        context.set_parameter(openzl.CParam.FormatVersion, openzl.MAX_FORMAT_VERSION)
        elements = numpy.frombuffer(to_bytes(x), words)  # has to outlive the input, which does not hold it
        return context.compress([openzl.Input(openzl.Type.Numeric, elements)])

    def decompress(data: bytes, x: torch.Tensor) -> bytes:
        return bytes(openzl.DCtx().decompress(data)[0].content.as_bytes())

    return Codec(compress, decompress)


def tensors(folder: Path, dtype: str) -> Iterator[torch.Tensor]:
    """Real tensors of a folder's weights, in a dtype, one at a time."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            if tensor.is_floating_point():
                yield tensor.to(getattr(torch, dtype)).contiguous()


def measure(folder: Path, dtype: str, repeat: int) -> dict[str, tuple[int, float, float]]:
    """Bytes, and seconds of compression and decompression, by codec."""
    sums = {name: [0.0, 0.0, 0.0] for name in codecs(dtype)}
    for x in tensors(folder, dtype):
        content = to_bytes(x)
        for name, codec in codecs(dtype).items():
            encode, decode = [], []
            for _ in range(repeat if codec.repeats else 1):
                begin = time.process_time()
                data = codec.compress(x)
                middle = time.process_time()
                back = codec.decompress(data, x)
                encode.append(middle - begin)
                decode.append(time.process_time() - middle)
                if back != content:
                    raise SystemExit(f"{name} does not give a {dtype} tensor of {folder.name} back")
            for index, value in enumerate((len(data), min(encode), min(decode))):
                sums[name][index] += value
    return {name: (int(size), encode, decode) for name, (size, encode, decode) in sums.items()}


DAMAGE = """
import random, sys
import numpy, torch
from pathlib import Path
sys.path.insert(0, {folder!r})
from run import codecs
name, seed = sys.argv[1], int(sys.argv[2])
x = torch.from_numpy(numpy.random.default_rng(seed).standard_normal(100_000, numpy.float32) / 20)
codec = codecs("float32")[name]
data, choose = codec.compress(x), random.Random(seed)
for attempt in range(50):
    changed = bytearray(data)
    if attempt % 2:
        del changed[choose.randrange(1, len(data)):]
    else:
        changed[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    try:
        codec.decompress(bytes(changed), x)
    except Exception:
        pass
"""


def damage(processes: int) -> None:
    """Print how many processes that read damaged bytes of a codec end by themselves."""
    print("| codec | processes that ended by a signal (memory corrupted) | of |\n|---|---|---|")
    for name in ("zstd -3", "ZipNN", "OpenZL", "floats"):
        code = DAMAGE.format(folder=str(Path(__file__).parent))
        results = [
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code, name, str(seed)], capture_output=True, check=False
            )
            for seed in range(processes)
        ]
        print(f"| {name} | {sum(result.returncode < 0 for result in results)} | {processes} |")
        if any(result.returncode > 0 for result in results):
            raise SystemExit(next(result.stderr.decode() for result in results if result.returncode > 0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--damage", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "zstandard": zstandard.__version__, "numpy": numpy.__version__}
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}\n")
    for name in DTYPES:  # compile and load everything before the clock starts
        x = torch.linspace(-1, 1, 5000).reshape(50, 100).to(getattr(torch, name))
        for codec in codecs(name).values():
            codec.decompress(codec.compress(x), x)
    for folder in arguments.folders:
        for dtype in DTYPES:
            total = sum(x.numel() * x.element_size() for x in tensors(folder, dtype))
            print(f"**{folder.name}, {dtype}**: {total:,} bytes\n")
            print("| | bytes | ratio | compress, MB/s | decompress, MB/s |\n|---|---|---|---|---|")
            for name, (size, encode, decode) in measure(folder, dtype, arguments.repeat).items():
                speeds = f"{total / encode / 1e6:.0f} | {total / decode / 1e6:.0f}"
                print(f"| {name} | {size:,} | {total / size:.4f} | {speeds} |", flush=True)
            print()
    if arguments.damage:
        damage(arguments.damage)


if __name__ == "__main__":
    main()
