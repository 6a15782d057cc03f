"""``zstd``: the layout that suits the data, frames without waste, and no way to make a reader allocate or accept more."""

from __future__ import annotations

import msgspec
import pytest
import torch
import zstandard
from hypothesis import given, settings

from stackc.artifact import container
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.testing.damage import peak_memory
from stackc.testing.packers import skewed_planes
from stackc.testing.planes import bell, random_bits, random_integers, same_bits
from stackc.testing.strategies import planes
from stackc.util.errors import ArtifactError
from stackc.util.frames import largest_window

zstd = find("zstd").stage()
STORED, PACKED, ELEMENTS, SHUFFLED = range(4)


def frame(content: bytes, **options: object) -> bytes:
    """A frame with other options than the packer's, less its magic number."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, **{"write_content_size": False, **options}
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


@given(planes())
@settings(max_examples=150, deadline=None)
def test_any_plane_comes_back(plane):
    spec, x = plane
    assert same_bits(zstd.unpack(zstd.pack(x, spec), spec), x)


@pytest.mark.parametrize("level", [1, 3, 9, 10, 19, 22])
@pytest.mark.parametrize("elements", [1, 1000, 300_000])
def test_every_level_gives_frames_that_version_1_reads(level, elements):
    x = bell((elements,), 0, "level")
    assert same_bits(zstd.unpack(type(zstd)(level=level).pack(x, PlaneSpec.of(x)), PlaneSpec.of(x)), x)


@pytest.mark.parametrize("level", [0, 23, -1])
def test_other_levels_are_refused(level):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"level": level}, type(zstd))


def layout_of(x: torch.Tensor, spec: PlaneSpec) -> int:
    return zstd.pack(x, spec)[0]


def test_weights_are_shuffled():
    x = bell((200, 100), 0, "weights")
    assert layout_of(x, PlaneSpec.of(x)) == SHUFFLED


def test_repeating_numbers_are_not_shuffled():
    values = random_bits(PlaneSpec((64,), "float64"), 0, "repeat")
    x = values[random_integers(PlaneSpec((5000,), "int64", 0, 63), 0, "repeat")]
    assert layout_of(x, PlaneSpec.of(x)) == PACKED


def test_skewed_codes_are_stored_as_bytes():
    spec, x = skewed_planes()["4-bit codes"]
    assert layout_of(x, spec) == ELEMENTS


def test_blocks_of_equal_mask_bits_are_packed():
    x = (random_integers(PlaneSpec((600,), "uint8"), 0, "blocks") % 4 == 0).repeat_interleave(8)
    assert layout_of(x, PlaneSpec.of(x)) == PACKED


@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16"])
def test_noise_is_stored_and_costs_one_byte(dtype):
    spec = PlaneSpec((1000,), dtype)
    x = (
        random_bits(PlaneSpec((1000,), "float64"), 0, dtype)
        .view(torch.uint8)[: spec.nbytes]
        .view(getattr(torch, dtype))
    )
    data = zstd.pack(x, spec)
    assert data[0] == STORED
    assert len(data) == 1 + spec.nbytes


def test_large_planes_get_the_layout_that_is_best_at_their_level():
    x = bell((700, 200), 0, "large")
    data = zstd.pack(x, PlaneSpec.of(x))
    assert data[0] == SHUFFLED
    assert len(data) < 0.9 * x.numel() * 4


def test_a_frame_has_no_magic_number_sizes_or_checksum():
    spec, x = skewed_planes()["4-bit codes"]
    content = (x + 7).numpy().tobytes()
    usual = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(content)
    data = zstd.pack(x, spec)
    assert data[0] == ELEMENTS
    assert len(data) - 1 == len(usual) - 4 - 1 - 2 + 1 - 4, "magic, descriptor, size (a window in its place), checksum"


BOMB_SPEC = PlaneSpec((1000,), "float32")
ZEROS = bytes(4000)
BILLION = 1 << 30


@pytest.mark.parametrize(
    "body",
    [
        frame(ZEROS[:-1])[1:],
        frame(ZEROS + b"\0")[1:],
        frame(bytes(1 << 20))[1:],
        frame(ZEROS)[1:] + b"\0",
        frame(ZEROS)[1:] * 2,
        frame(ZEROS)[1:-1],
        frame(ZEROS),
        frame(ZEROS, write_content_size=True),
        frame(ZEROS, write_checksum=True)[1:],
        bytes([(27 - 10) << 3]) + frame(ZEROS)[2:],
        bytes([(13 - 10) << 3]) + frame(ZEROS)[2:],
        b"",
        b"\0",
    ],
    ids=[
        "one byte less", "one byte more", "much more", "byte after", "two frames", "cut", "with descriptor",
        "with content size", "with checksum", "large window", "window of 8 KiB", "empty", "window only",
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", [PACKED, SHUFFLED])
def test_frames_that_are_not_exactly_the_plane_are_refused(body, layout):
    with pytest.raises(ArtifactError, match="damaged"):
        zstd.unpack(bytes([layout]) + body, BOMB_SPEC)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A gigabyte of zeros in a few kilobytes."""
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            1, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, window_log=10
        )
    ).compressobj()
    block = bytes(1 << 22)
    return b"".join([*(compressor.compress(block) for _ in range(BILLION >> 22)), compressor.flush()])


def test_a_decompression_bomb_allocates_nothing(bomb):
    good = zstd.pack(torch.zeros(1000), BOMB_SPEC)
    zstd.unpack(good, BOMB_SPEC)
    before = peak_memory()
    for body in (bomb, bomb[1:]):
        with pytest.raises(ArtifactError):
            zstd.unpack(bytes([PACKED]) + body, BOMB_SPEC)
    assert peak_memory() - before < 64 << 20


@pytest.mark.parametrize("layout", [4, 5, 128, 255])
def test_unknown_layouts_are_refused(layout):
    with pytest.raises(ArtifactError, match=f"layout {layout}"):
        zstd.unpack(bytes([layout]) + frame(ZEROS)[1:], BOMB_SPEC)


def test_whole_elements_out_of_bounds_are_refused():
    with pytest.raises(ArtifactError, match="above its upper bound"):
        zstd.unpack(bytes([ELEMENTS]) + frame(bytes([7] * 100))[1:], PlaneSpec((100,), "int8", lo=-3, hi=3))


# ---- planes of 2 GiB and more ----


class SmallOutput:
    """The library's decompressor, which makes room for a little content only."""

    def __init__(self, **options):
        self._inner = REAL_DECOMPRESSOR(**options)

    def decompress(self, frame, max_output_size, allow_extra_data):
        return self._inner.decompress(
            frame, max_output_size=min(max_output_size, 1 << 16), allow_extra_data=allow_extra_data
        )


REAL_DECOMPRESSOR = zstandard.ZstdDecompressor


@pytest.mark.parametrize("size", [(1 << 30) + 1, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, 3 << 30, 1 << 40])
def test_a_plane_of_any_size_asks_for_a_window_that_zstandard_has(size, monkeypatch):
    """The reader gets as far as counting the bytes of a frame of little content: nothing of that size is allocated."""
    monkeypatch.setattr(zstandard, "ZstdDecompressor", SmallOutput)
    content = bytes(range(256)) * 16
    largest = frame(content, window_log=27)  # the largest window of any level
    spec = PlaneSpec((size,), "int8")
    with pytest.raises(ArtifactError, match=f"decodes to 4096 bytes instead of {size}"):
        zstd.unpack(bytes([PACKED]) + largest[1:], spec)
    with pytest.raises(ArtifactError, match=f"has 4096 bytes instead of {size}"):
        container.decompress(b"\x28\xb5\x2f\xfd" + largest, size)


@pytest.mark.parametrize("level", range(1, 23))
@pytest.mark.parametrize("size", [(1 << 27) + 1, 3 << 30, 1 << 40])
def test_no_level_writes_a_window_that_readers_refuse(level, size):
    parameters = zstandard.ZstdCompressionParameters.from_level(level, source_size=size)
    assert 1 << parameters.window_log <= min(1 << 27, largest_window(size, least=1 << 10))
