"""``docs/format.md`` is true: a decoder that was written from it alone reads what stackc writes."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import stackc
from stackc.artifact.container import read_manifest
from stackc.core.planes import to_bytes
from stackc.core.stack import stored_planes
from stackc.models import open_reference
from stackc.recipe.parse import recipe_from
from stackc.runs.pipeline import compress_to_file
from stackc.testing.planes import bell, random_bits, random_integers
from stackc.util.errors import StackcError
from tests.docs.second_decoder import Refused, SecondDecoder
from tests.helpers.tiny import tiny_classifier

FORMAT = (Path(__file__).parents[2] / "docs/format.md").read_text(encoding="utf-8")


class Zoo(torch.nn.Module):
    """A tensor of every dtype and of every odd shape."""

    def __init__(self) -> None:
        super().__init__()
        matrix = bell((40, 24), 0, "matrix")
        sparse = torch.where(matrix.abs() > 0.1, matrix, torch.zeros(()))
        tensors = {
            "matrix": matrix,
            "sparse": sparse,
            "tall": bell((700, 8), 0, "tall"),
            "4-d": bell((6, 4, 3, 3), 0, "4-d"),
            "half precision": bell((20, 12), 0, "half").half() * 2.0**17,
            "brain": bell((20, 12), 0, "brain").bfloat16(),
            "double precision": bell((9, 7), 0, "double").double(),
            "vector": bell((37,), 0, "vector"),
            "number": bell((), 0, "number"),
            "empty": torch.empty(0),
            "no columns": torch.empty(4, 0),
            "row": bell((1, 19), 0, "row"),
            "zeros": torch.zeros(5, 6),
            "positions": torch.arange(50)[None],
            "int32": (matrix * 2.0**20).int(),
            "int16": (matrix * 2.0**16).short(),
            "int8": (matrix * 400).to(torch.int8),
            "uint8": (matrix * 400).abs().to(torch.uint8),
            "mask": matrix > 0,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.register_buffer("tied", self.matrix)


def compressed(stages: list, path: Path, module: torch.nn.Module | None = None) -> Path:
    recipe = recipe_from({"stages": stages})
    compress_to_file(recipe, open_reference(module or Zoo()), path, evaluate=False, every_stage=False)
    return path


def assert_same(path: Path) -> None:
    """Both decoders give the same bits."""
    second = SecondDecoder(path)
    with stackc.open(path) as artifact:
        assert set(second.names) == {*artifact.specs, *artifact.ties}
        for name in second.names:
            expected, got = artifact[name], second.tensor(name)
            wanted = expected.float().numpy() if expected.dtype == torch.bfloat16 else expected.numpy()
            assert got.dtype == wanted.dtype
            assert got.shape == wanted.shape
            assert got.tobytes() == wanted.tobytes(), name


RECIPES = {
    "raw": ["raw"],
    "zstd": [{"use": "zstd", "level": 3}],
    "prune sparsity": [{"use": "prune", "sparsity": 0.7}, "ans", "zstd"],
    "prune sparsity, odd share": [{"use": "prune", "sparsity": 0.37}, "raw"],
    "prune everything": [{"use": "prune", "sparsity": 1.0}, "ans", "zstd"],
    "prune nothing": [{"use": "prune", "rows": 0.0}, "ans", "zstd"],
    "prune global": [{"use": "prune", "sparsity": 0.6, "scope": "global"}, "ans", "raw"],
    "prune rows": [{"use": "prune", "rows": 0.63}, "int8", "ans", "zstd"],
    "prune columns": [{"use": "prune", "columns": 0.45}, "raw"],
    "seed": [{"use": "seed", "rank": 3}, "raw"],
    "seed without mean": [{"use": "seed", "rank": 2, "center": False}, "zstd"],
    "seed by variance": [{"use": "seed", "variance": 0.9}, {"use": "int", "bits": 6}, "ans", "zstd"],
    "int8": ["int8", "zstd"],
    "int tensor": [{"use": "int", "bits": 5, "granularity": "tensor"}, "raw"],
    "int group": [{"use": "int", "bits": 3, "granularity": "group", "group_size": 7}, "ans"],
    "int with zero point": [{"use": "int", "bits": 4, "symmetric": False}, "ans"],
    "int with zero point, groups": [
        {"use": "int", "bits": 7, "symmetric": False, "granularity": "group", "group_size": 5},
        "raw",
    ],
    "int step": [{"use": "int", "step": 0.01, "on": "!half*"}, "ans"],
    "int step with many bits": [{"use": "int", "step": 1e-4, "on": "!half*"}, "raw"],
    "int 1": [{"use": "int", "bits": 1}, "raw"],
    "int 1 with zero point": [{"use": "int", "bits": 1, "symmetric": False}, "ans", "fp16"],
    "tcq": [{"use": "tcq", "step": 0.02, "on": "!half*"}, {"use": "tcq", "step": 2000, "on": "half*"}, "ans"],
    "tcq with 4 states": [{"use": "tcq", "step": 0.05, "states": 4, "on": "!half*"}, "ans", "zstd"],
    "tcq with many bits": [{"use": "tcq", "step": 1e-4, "on": "!half*"}, "raw"],
    "codebook": [{"use": "codebook"}, "ans"],
    "codebook of vectors": [{"use": "codebook", "entries": 300, "dims": 3}, "zstd"],
    "codebook in float16": [{"use": "codebook", "entries": 40, "dims": 5, "dtype": "float16"}, "raw"],
    "codebook in float64": [{"use": "codebook", "entries": 20, "dtype": "float64"}, "zstd"],
    "codebook of a group": [{"use": "codebook", "entries": 50, "dims": 4, "group": "all"}, "ans"],
    "codebook of a group, float32": [{"use": "codebook", "entries": 9, "group": "all", "dtype": "float32"}, "raw"],
    "fp16": ["fp16", "zstd"],
    "bf16": ["bf16", "raw"],
    "floats": ["floats", "zstd"],
    "floats of halves and columns": [
        {"use": "seed", "rank": 4},
        {"use": "fp16", "allow_empty": True},
        "floats",
        "zstd",
    ],
    "context": [{"use": "int", "bits": 5}, {"use": "context", "on": "!*{scale,positions,int32,int16}*"}, "zstd"],
    "context after tcq": [{"use": "tcq", "step": 0.05, "on": "!half*"}, "context"],
    "context of masks": [{"use": "prune", "rows": 0.4, "on": "tall"}, {"use": "prune", "sparsity": 0.9}, "context"],
    "auto": [{"use": "int", "bits": 3}, "auto"],
    "deep": [
        {"use": "prune", "on": ["tall", "matrix", "*d*"], "rows": 0.5},
        {"use": "seed", "rank": 4, "allow_empty": True},
        {"use": "int", "bits": 5, "on": "*/{basis,scores,values}"},
        "bf16",
        "ans",
        "zstd",
    ],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The file of each recipe, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("files")

    @functools.cache
    def file(name):
        return compressed(RECIPES[name], folder / f"{name}.stackc")

    return file


@pytest.mark.parametrize("name", RECIPES)
def test_every_transform_and_packer(name, files):
    assert_same(files(name))


def test_the_recipes_cover_every_stage_and_plane(files):
    seen = set()
    for recipe in RECIPES:
        with stackc.open(files(recipe)) as artifact:
            for name, spec in artifact.specs.items():
                stack = artifact.stack(name)
                for plane in stored_planes(stack, spec):
                    seen |= {plane.packer.name, *plane.path.split("/")}
    planes = {"mask", "values", "fallback", "mean", "basis", "scores", "codes", "scale", "zero_point", "codebook"}
    assert seen >= {"raw", "zstd", "ans", "floats", "context", *planes}
    assert "auto" not in seen


TRANSFORMS = st.one_of(
    st.builds(
        lambda key, share: {"use": "prune", key: share},
        st.sampled_from(["sparsity", "rows", "columns"]),
        st.floats(0, 1),
    ),
    st.builds(lambda share: {"use": "prune", "sparsity": share, "scope": "global"}, st.floats(0, 1)),
    st.builds(
        lambda rank, center, group: {"use": "seed", "rank": rank, "center": center, "group": group},
        st.integers(1, 8),
        st.booleans(),
        st.sampled_from([None, "all", "alike"]),
    ),
    st.builds(
        lambda bits, symmetric, group: {
            "use": "int",
            "bits": bits,
            "symmetric": symmetric,
            "granularity": "group" if isinstance(group, int) else group,
            "group_size": group if isinstance(group, int) else None,
        },
        st.integers(1, 8),
        st.booleans(),
        st.one_of(st.sampled_from(["tensor", "row"]), st.integers(1, 30)),
    ),
    st.builds(
        lambda entries, dims, group, dtype: {
            "use": "codebook",
            "entries": entries,
            "dims": dims,
            "group": group,
            "dtype": dtype,
        },
        st.integers(2, 300),
        st.integers(1, 9),
        st.sampled_from([None, "all", "alike", ["*a*", "*b*"]]),
        st.sampled_from([None, "float16", "float32", "float64"]),
    ),
    st.sampled_from([{"use": "fp16"}, {"use": "bf16"}]),
)
PACKERS = st.sampled_from(
    [{"use": "raw"}, {"use": "zstd", "level": 5}, *({"use": name} for name in ("ans", "floats", "context", "auto"))]
)
PLACES = st.sampled_from(["*", "*a*", "*/{values,scores,basis}", "*/*e*", "!*codes", "4-d*"])


@given(
    st.lists(st.tuples(TRANSFORMS, PLACES), min_size=1, max_size=4),
    st.lists(st.tuples(PACKERS, PLACES), max_size=3),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_stacks(tmp_path, transforms, packers):
    stages = [{**stage, "on": place, "allow_empty": True} for stage, place in [*transforms, *packers]]
    try:
        path = compressed(stages, tmp_path / "model.stackc")
    except StackcError as error:
        assert "too large" in str(error) or "exceed" in str(error) or "overflow" in str(error)  # noqa: PT017
    else:
        assert_same(path)


@pytest.mark.parametrize(
    "stage",
    [
        {"use": "int", "bits": 4, "granularity": "group", "group_size": 4},
        {"use": "int", "bits": 3, "symmetric": False},
        {"use": "codebook", "entries": 8, "dims": 4},
        {"use": "prune", "on": "weight", "columns": 0.4},
    ],
    ids=str,
)
def test_convolutions_in_rows(tmp_path, stage):
    assert_same(compressed([stage, "raw"], tmp_path / "conv.stackc", torch.nn.Conv2d(3, 6, (3, 2))))


@pytest.mark.parametrize("exact", [False, True])
def test_differences_from_another_model(tmp_path, exact):
    base = {name: x.clone() for name, x in Zoo().state_dict().items()}
    for number, x in enumerate(base.values()):
        if x.is_floating_point():
            x.mul_(1 + 1e-3 * bell(x.shape, number, "change").to(x.dtype))
        elif x.dtype != torch.bool:
            x.add_(torch.arange(x.numel()).reshape(x.shape).to(x.dtype) % 3 - 1)
        else:
            x.logical_xor_(torch.arange(x.numel()).reshape(x.shape) % 5 == 0)
    save_file(base, tmp_path / "base.safetensors")
    reference = open_reference(str(tmp_path / "base.safetensors"))
    path = compressed([{"use": "delta", "base": reference.source, "exact": exact}, "auto"], tmp_path / "model.stackc")
    arrays = {name: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for name, x in base.items()}
    second = SecondDecoder(path, {reference.fingerprint(): arrays})
    with stackc.open(path, base=reference) as artifact:
        assert sum(bool(artifact.uses(name)) for name in artifact.specs) == len(artifact.shared) > 10
        for name in second.names:
            expected = artifact[name]
            wanted = expected.float().numpy() if expected.dtype == torch.bfloat16 else expected.numpy()
            assert second.tensor(name).tobytes() == wanted.tobytes(), name


@pytest.mark.parametrize("packer", ["raw", "zstd", "ans", "context"])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 9, 13, 16])
def test_codes_of_every_width(packer, width, tmp_path):
    """Uniform, skewed, sparse and constant codes, packed directly and decoded by the second decoder's packer."""
    from stackc.core.registry import find
    from stackc.core.spec import PlaneSpec, smallest_integer_dtype
    from tests.docs.second_decoder import PACKERS as UNPACK
    from tests.docs.second_decoder import Spec

    lo, hi = -3, (1 << width) - 4
    spec = PlaneSpec((4096,), smallest_integer_dtype(lo, hi), lo, hi)
    uniform = random_integers(spec, 1, "codes")
    skewed = torch.clamp((bell((4096,), 2, "codes") * (1 << width)).round(), lo, hi).to(uniform.dtype)
    few = torch.where(uniform % 97 == 0, uniform, torch.full_like(uniform, hi))
    for codes in (uniform, skewed, few, torch.full_like(uniform, hi)):
        stage = find(packer).stage()
        decoded = UNPACK[packer, 1](
            stage.pack(codes, spec), Spec(spec.shape, spec.dtype, lo, hi), **msgspec.to_builtins(stage)
        )
        np.testing.assert_array_equal(decoded, codes.numpy())


def test_ans_is_the_coder_of_constriction():
    """The loop of the page and the library that it names give the same symbols."""
    import constriction

    from stackc.core.registry import find
    from stackc.core.spec import PlaneSpec
    from tests.docs.second_decoder import read_stack, read_table

    spec = PlaneSpec((3000,), "int8", -8, 7)
    codes = torch.clamp((bell((3000,), 3, "codes") * 40).round(), -8, 7).to(torch.int8)
    data = find("ans").stage().pack(codes, spec)
    symbols, frequencies, length = read_table(data, 16)
    stack = data[length:]
    words = np.frombuffer(stack + b"\0" * (-len(stack) % 4), "<u4").astype(np.uint32)
    model = constriction.stream.model.Categorical(np.array(frequencies, np.float64), perfect=False)
    library = np.array(symbols)[constriction.stream.stack.AnsCoder(words).decode(model, 3000)]
    assert library.tolist() == read_stack(stack, symbols, frequencies, 3000)
    assert library.tolist() == (codes.long() + 8).tolist()


def test_payload_of_several_blocks(tmp_path):
    module = torch.nn.Module()
    for number in range(3):
        spec = stackc_spec((150, 200))
        module.register_buffer(f"noise{number}", random_bits(spec, number, "noise"))
    path = compressed(["raw"], tmp_path / "model.stackc", module)
    assert path.stat().st_size > 5 * 65536
    second = SecondDecoder(path)
    for name, tensor in module.state_dict().items():
        assert second.tensor(name).tobytes() == to_bytes(tensor)


def stackc_spec(shape):
    from stackc.core.spec import PlaneSpec

    return PlaneSpec(shape, "float32")


def test_transformers_model_with_bundle(tmp_path):
    folder = tiny_classifier(tmp_path / "model", tied=True)
    path = tmp_path / "model.stackc"
    recipe = recipe_from({"bundle": ["tokenizer"], "stages": [{"use": "int", "bits": 5}, "ans", "zstd"]})
    compress_to_file(recipe, open_reference(folder), path, evaluate=False, every_stage=False)
    assert_same(path)
    second = SecondDecoder(path)
    assert second.kind == 0
    assert second.config["architectures"] == ["BartForSequenceClassification"]
    assert set(second.bundle) == {"tokenizer.json", "tokenizer_config.json"}
    for name in second.bundle:
        assert second.bundled(name) == (folder / name).read_bytes()


@pytest.mark.parametrize("part", ["header", "manifest", "payload", "cut", "longer"])
def test_damage_is_refused(part, tmp_path):
    data = bytearray(compressed(["int8", "zstd"], tmp_path / "model.stackc").read_bytes())
    if part in ("cut", "longer"):
        data = data[:-1] if part == "cut" else data + b"\0"
    else:
        data[{"header": 9, "manifest": 40, "payload": -5}[part]] ^= 4
    (tmp_path / "damaged.stackc").write_bytes(data)
    with pytest.raises(Refused):
        SecondDecoder(tmp_path / "damaged.stackc")


def example_bytes() -> bytes:
    block = FORMAT.split("<!-- example file")[1].split("```")[1]
    return bytes.fromhex("".join(re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)", block, re.MULTILINE)))


def test_the_example_file_of_the_page(tmp_path):
    path = tmp_path / "example.stackc"
    path.write_bytes(example_bytes())
    assert f"{len(example_bytes())} bytes" in FORMAT
    with stackc.open(path) as artifact:
        decoded = artifact["w"].numpy()
    np.testing.assert_allclose(decoded, [[0.4667, -0.2667], [0, 1.4]], atol=1e-4)
    np.testing.assert_array_equal(SecondDecoder(path).tensor("w"), decoded)
    shown = FORMAT.split("decodes to this MessagePack value")[1].split("```json")[1].split("```")[0]
    with path.open("rb") as file:
        manifest = read_manifest(file, "example").manifest
    value = msgspec.msgpack.decode(manifest)
    value[7] = value[7].hex()
    assert msgspec.json.decode(shown) == value


def test_the_example_file_is_what_stackc_writes(tmp_path):
    """The manifest's compression may change with the zstandard library; what it holds and the payload may not."""
    module = torch.nn.Module()
    module.register_buffer("w", torch.tensor([[0.5, -0.25], [0.0, 1.5]]))
    path = compressed([{"use": "int", "bits": 4}], tmp_path / "new.stackc", module)
    old = tmp_path / "old.stackc"
    old.write_bytes(example_bytes())
    parts = []
    for each in (path, old):
        with each.open("rb") as file:
            _, manifest, offset = read_manifest(file, each.name)
        parts.append((manifest, each.read_bytes()[offset:]))
    assert parts[0] == parts[1]


def test_every_stage_has_a_section_with_its_fields():
    """The page names every field of every stage of stackc, and its version."""
    from importlib.metadata import entry_points

    from stackc.core.registry import Preset

    for group in ("stackc.transforms", "stackc.packers"):
        for point in entry_points(group=group):
            stage = point.load()
            if isinstance(stage, Preset) or not stage.__module__.startswith("stackc."):
                continue
            if stage.name == "auto":
                assert "no file names it" in FORMAT
                continue
            label = f"`{stage.name}@{stage.version}`"
            heading = next((line for line in FORMAT.splitlines() if line.startswith("### ") and label in line), label)
            assert heading != label
            section = FORMAT.split(heading)[1].split("\n#")[0]
            not_stored = getattr(stage, "encode_only", frozenset())
            for field in msgspec.structs.fields(stage):
                listed = re.search(rf"^\| `{field.name}` \|", section, re.MULTILINE) is not None
                assert listed == (field.name not in not_stored), (heading, field.name)


def test_the_recipe_of_the_page_is_legal():
    assert recipe_from({"stages": [{"use": "seed", "rank": 4}]}).stages[0].config.rank == 4
