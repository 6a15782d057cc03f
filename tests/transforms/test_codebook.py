"""A codebook is exact where it can be, the best where that is known, and stored once where it is shared."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stackc
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known, Weighted
from stackc.recipe.parse import recipe_from
from stackc.recipe.schema import stage_schema
from stackc.testing import transform_checks
from stackc.testing.planes import random_words
from stackc.transforms.codebook import Codebook, Codebook1, Codebook2, _kmeans
from stackc.transforms.int import Int
from stackc.util.errors import RecipeError, SpecError, TensorError

BATTERY = {
    "values": Codebook(),
    "pairs": Codebook(entries=64, dims=2, dtype="float16"),
    "blocks of a group": Codebook(entries=32, dims=7, group="all"),
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}: {check}")
        for name, stage in BATTERY.items()
        for check in transform_checks(stage)
    ],
)
def test_conformance(check):
    check()


def uniform(shape, tag):
    words = torch.from_numpy((random_words(math.prod(shape), 0, tag) >> 12).astype("int64"))
    return ((words.double() + 0.5) * 2.0**-52).reshape(shape)


def gauss(shape):
    return (math.sqrt(2) * torch.erfinv(2 * uniform(shape, "gauss") - 1)).float()


def laplace(shape):
    u = uniform(shape, "laplace") - 0.5
    return (-u.sign() * torch.log1p(-2 * u.abs())).float()


def decoded(stage, x, weights=None):
    return stage.decode(stage.encode(x, Known(weights)), PlaneSpec.of(x))


def squared_error(stage, x):
    """As a share of the energy of the plane."""
    return float((decoded(stage, x).double() - x.double()).square().sum() / x.double().square().sum())


@pytest.mark.parametrize(("bits", "best"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_levels_for_a_gaussian_are_those_of_max(bits, best):
    """Squared errors of the best levels, from table 1 of Max (1960); the quantiles of a Gaussian stand for it."""
    quantiles = math.sqrt(2) * torch.erfinv((2 * torch.arange(200_000.0, dtype=torch.float64) + 1) / 200_000 - 1)
    assert squared_error(Codebook(entries=2**bits), quantiles) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("draw", [gauss, laplace])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_error_is_below_that_of_equally_spaced_codes(draw, bits):
    x = draw((200, 200))
    assert squared_error(Codebook(entries=2**bits), x) < 0.6 * squared_error(Int(bits=bits, granularity="tensor"), x)


def smallest_error(values, weights, entries):
    """Over all ways to cut the sorted values into so many stretches."""
    order = values.argsort()
    values, weights = values[order], weights[order]
    best = math.inf
    for inner in itertools.combinations(range(1, len(values)), entries - 1):
        error = 0.0
        for first, last in itertools.pairwise((0, *inner, len(values))):
            part, share = values[first:last], weights[first:last]
            mean = (part * share).sum() / share.sum() if share.sum() > 0 else part.mean()
            error += float((share * (part - mean) ** 2).sum())
        best = min(best, error)
    return best


@given(
    values=st.lists(st.integers(-20, 20), min_size=4, max_size=9, unique=True),
    shares=st.lists(st.integers(0, 8), min_size=9, max_size=9),
    entries=st.integers(2, 4),
)
@settings(max_examples=60, deadline=None)
def test_single_values_get_the_best_levels_there_are(values, shares, entries):
    x = torch.tensor(values, dtype=torch.float64)
    weights = torch.tensor(shares[: len(values)], dtype=torch.float64)
    if not weights.any():
        weights = torch.ones_like(weights)
    error = float((weights * (decoded(Codebook(entries=entries), x, weights) - x).square()).sum())
    assert error == pytest.approx(smallest_error(x, weights, min(entries, len(x))), abs=1e-9)


def test_half_a_bit_per_weight_is_better_than_none():
    layer = torch.nn.Linear(512, 768, bias=False)
    layer.weight.data = gauss((768, 512))
    stages = [{"use": "codebook", "entries": 256, "dims": 16, "dtype": "float16"}]
    artifact, report = stackc.compress(layer, {"stages": stages})
    with artifact:
        weight = artifact["weight"]
    bits = layer.weight.numel() / 2  # eight for sixteen weights
    assert report.file.bytes < bits / 8 + 256 * 16 * 2 + 400
    assert float((weight - layer.weight.data).square().sum()) < 0.75 * float(layer.weight.data.square().sum())


def test_several_values_per_code_find_structure_that_one_does_not():
    """Pairs of equal values: at the same bits per value, vectors lie on a line that single values fill a square around."""
    x = gauss((400, 60)).repeat_interleave(2, 1)
    assert squared_error(Codebook(entries=16, dims=2), x) < 0.2 * squared_error(Codebook(entries=4), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("group", [None, "all"])
def test_few_distinct_vectors_are_exact(dtype, dims, group):
    kinds = gauss((7, 1)).double()
    kinds[3] = torch.nextafter(kinds[2], torch.tensor(9.0, dtype=torch.float64))
    x = kinds.to(dtype)[torch.arange(60) * 11 % 7].reshape(60, 1).expand(60, dims).reshape(20, 3 * dims)
    stage = Codebook(entries=7, dims=dims, group=group)
    assert torch.equal(decoded(stage, x), x)
    shared = stage.find_common({"x": Weighted(x[:10]), "y": Weighted(x[10:])}) if group else {}
    planes = stage.encode(x, Known(shared=shared))
    assert torch.equal(stage.stored.decode(planes, PlaneSpec.of(x)), x)
    assert stage.error_bound(x) == 0


def test_all_equal_values_need_one_entry():
    planes = Codebook().encode(torch.full((9, 8), 0.3))
    assert not planes["codes"].any()
    assert torch.equal(planes["codebook"], torch.full((16, 1), 0.3))


def test_values_are_numbered_in_order():
    x = laplace((50, 40))
    planes = Codebook(entries=32).encode(x)
    assert bool((planes["codebook"].diff(dim=0) > 0).all())
    order = x.reshape(-1).argsort()
    assert bool((planes["codes"].reshape(-1)[order].diff() >= 0).all())


def test_vectors_are_numbered_by_frequency_and_unused_entries_come_last():
    kinds = gauss((5, 4))
    x = kinds[[0] * 3 + [1] * 9 + [2] * 5 + [3] + [4] * 2]
    planes = Codebook(entries=8, dims=4).encode(x)
    assert planes["codes"].reshape(-1).bincount().tolist() == [9, 5, 3, 2, 1]
    assert torch.equal(planes["codebook"], kinds[[1, 2, 0, 4, 3, 3, 3, 3]])


def test_codes_are_as_narrow_as_the_entries_allow():
    spec = PlaneSpec((40, 20), "float32")
    for entries, dims, codes in (
        (128, 1, PlaneSpec((40, 20), "int8", 0, 127)),
        (256, 3, PlaneSpec((40, 7), "uint8", 0, 255)),
        (257, 1, PlaneSpec((40, 20), "int16", 0, 256)),
        (65536, 1, PlaneSpec((40, 20), "int16", 0, 799)),
        (16, 64, PlaneSpec((40, 1), "int8", 0, 15)),
    ):
        assert Codebook(entries=entries, dims=dims).plan(spec)["codes"] == codes


def test_last_vector_of_a_row_counts_only_what_it_has():
    """Its missing values neither decide on the entry nor pull on it: two entries are enough for two kinds of rows."""
    kinds = gauss((2, 3))
    rows = torch.cat([kinds[[0, 1, 1, 0, 1] * 20], kinds[[1, 0, 1, 1, 0] * 20][:, :2]], dim=1)
    stage = Codebook(entries=2, dims=3)
    assert torch.allclose(decoded(stage, rows), rows, rtol=1e-6)
    assert stage.encode(rows)["codes"].shape == (100, 2)


@pytest.mark.parametrize("dims", [1, 4])
def test_row_weights_say_where_the_error_goes(dims):
    x = torch.cat([gauss((300, 8)), 3 + gauss((300, 8))])
    weights = torch.cat([torch.full((300,), 50.0), torch.ones(300)])
    stage = Codebook(entries=8, dims=dims)

    def error(plane):
        return float((weights[:, None] * (x - plane).square()).sum())

    assert error(decoded(stage, x, weights)) < 0.8 * error(decoded(stage, x))
    assert torch.equal(decoded(stage, x, weights), decoded(stage, x, weights * 4))


def test_weights_of_single_values_reach_the_vectors_that_hold_them():
    x = torch.cat([gauss((600,)), 3 + gauss((600,))])
    weights = torch.cat([torch.full((600,), 50.0), torch.ones(600)])
    stage = Codebook(entries=8, dims=2)
    error = weights * (x - decoded(stage, x, weights)).square()
    assert float(error.sum()) < 0.8 * float((weights * (x - decoded(stage, x)).square()).sum())
    assert stage.carry(Known(weights), stage.encode(x)) == {}
    assert stage.carry(Known(weights), Codebook().encode(x)) == {"codes": Known(weights)}


@pytest.mark.parametrize(("entries", "dims"), [(16, 1), (300, 1), (16, 3)])
def test_a_sample_does_nearly_as_well(entries, dims, monkeypatch):
    x = laplace((100, 300))
    whole = squared_error(Codebook(entries=entries, dims=dims), x)
    monkeypatch.setattr(_kmeans, "_CHUNK", 100)
    monkeypatch.setattr(_kmeans, "_SCALAR_SAMPLE", 2000)
    monkeypatch.setattr(_kmeans, "_VECTOR_SAMPLE", 40)
    assert whole < squared_error(Codebook(entries=entries, dims=dims), x) < 1.1 * whole


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (2100,)], ids=str)
@pytest.mark.parametrize("dims", [1, 4])
def test_results_do_not_depend_on_the_pieces_that_are_read(shape, dims, monkeypatch):
    x, weights = laplace(shape), uniform(shape[:1], "weights")
    stage = Codebook(entries=20, dims=dims)
    expected = stage.encode(x, Known(weights))
    monkeypatch.setattr(_kmeans, "_VECTOR_SAMPLE", 1 << 16)
    monkeypatch.setattr(_kmeans, "_CHUNK", 11)
    planes = stage.encode(x, Known(weights))
    assert all(torch.equal(planes[name], expected[name]) for name in expected)


def test_many_entries_use_all_of_them():
    """More than are planned together: the rest comes from splitting."""
    x = laplace((300, 40))
    planes = Codebook(entries=3000).encode(x)
    assert bool((planes["codebook"].diff(dim=0) > 0).all())
    assert len(planes["codes"].unique()) == 3000
    assert squared_error(Codebook(entries=3000), x) < 0.1 * squared_error(Codebook(entries=750), x)


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-140, 2.0**120, 2.0**1000])
@pytest.mark.parametrize("dims", [1, 3])
def test_scale_of_the_values_does_not_matter(scale, dims):
    dtype = torch.float64 if abs(math.log2(scale)) > 130 else torch.float32
    x = (gauss((30, 12)) * 64).round().to(dtype)  # exact at every scale
    stage = Codebook(entries=9, dims=dims)
    planes, scaled = stage.encode(x), stage.encode(x * scale)
    assert torch.equal(planes["codes"], scaled["codes"])
    assert torch.allclose(scaled["codebook"] / scale, planes["codebook"])


def test_subnormal_numbers_have_levels_too():
    x = (gauss((30, 12)) * 100).round() * 2.0**-149
    assert squared_error(Codebook(), x.double() * 2.0**149) < 0.02
    assert torch.equal((decoded(Codebook(entries=65536), x)), x)


class Layers(torch.nn.Module):
    def __init__(self, count):
        super().__init__()
        for number in range(count):
            self.register_buffer(f"w{number}", laplace((count, 64, 48))[number].clone())


def test_the_codebook_of_a_group_is_stored_once():
    """In float16 and coded as they are, ten codebooks of 128 x 4 numbers take 10,240 bytes."""
    stage = {"use": "codebook", "entries": 128, "dims": 4, "dtype": "float16"}
    artifact, own = stackc.compress(Layers(10), {"stages": [stage]})
    artifact.close()
    artifact, one = stackc.compress(Layers(10), {"stages": [{**stage, "group": "all"}]})
    with artifact:
        assert len(artifact.shared) == 1
        assert artifact.stack("w0") == artifact.stack("w9")
    saved = own.file.bytes - one.file.bytes
    assert saved == pytest.approx(9 * 128 * 4 * 2, rel=0.05)
    # a codebook of their own is made for six vectors per entry, and fits these very well
    assert one.final.weight_error < 1.3 * own.final.weight_error


def least_error(x, book):
    """Squared error of the nearest entries, of which short vectors use the beginning."""
    rows = x.double().reshape(-1, *x.shape[-1:] or (1,))
    pieces = rows.split(book.shape[1], dim=1)
    return sum(float(torch.cdist(piece, book[:, : piece.shape[1]]).square().amin(1).sum()) for piece in pieces)


def test_the_codebook_of_a_group_serves_planes_of_all_shapes():
    planes = {
        "matrix": gauss((30, 20)),
        "long rows": gauss((2, 90)),
        "short rows": gauss((40, 3)),
        "half": gauss((6, 5)).half(),
        "vector": gauss((9,)),
        "empty": torch.zeros(0, 4),
    }
    stage = Codebook(entries=64, dims=3, group="all")
    common = stage.find_common({name: Weighted(plane) for name, plane in planes.items()})
    for x in planes.values():
        made = stage.encode(x, Known(shared=common))
        assert made["codebook"] is common["codebook"]
        y = stage.stored.decode(made, PlaneSpec.of(x))
        error = float((y.double() - x.double()).square().sum())
        assert error == pytest.approx(least_error(x, common["codebook"].double()), rel=1e-2, abs=1e-12)


@pytest.mark.parametrize("dims", [1, 2])
def test_entries_that_a_group_does_not_need_repeat_the_last_one_and_are_not_used(dims):
    kinds = gauss((3, dims))
    stage = Codebook(entries=300, dims=dims, group="all")
    x = torch.cat([kinds, 2 * kinds])[torch.arange(40) % 6]
    common = stage.find_common({"x": Weighted(x), "empty": Weighted(torch.zeros(0, dims))})
    book = common["codebook"]
    assert book.shape == (300, dims)
    assert torch.equal(book[6:], book[5:6].expand(294, dims))
    above = torch.cat([x, 9 * book[5:6].abs()])
    assert stage.encode(above, Known(shared=common))["codes"].unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert stage.plan(PlaneSpec.of(x))["codes"].hi == 299
    nothing = stage.find_common({"empty": Weighted(torch.zeros(0, dims))})["codebook"]
    assert torch.equal(nothing, torch.zeros(300, dims))


def test_row_weights_of_a_group_count_within_each_plane():
    x = torch.cat([gauss((300, 8)), 3 + gauss((300, 8))])
    weights = torch.cat([torch.full((300,), 50.0), torch.ones(300)])
    stage = Codebook(entries=8, group="all")

    def book(scale):
        return stage.find_common({"x": Weighted(x, scale * weights), "y": Weighted(x)})["codebook"]

    assert torch.equal(book(1), book(4))
    assert float(book(1).mean()) < float(stage.find_common({"x": Weighted(x), "y": Weighted(x)})["codebook"].mean())


def test_the_file_says_that_there_is_a_group_and_not_which():
    assert Codebook(group=("a*", "b*")).stored == Codebook(shared=True)
    assert Codebook(entries=9).stored == Codebook(entries=9)
    few = PlaneSpec((2, 3), "float32")
    assert Codebook(group="alike").plan(few) == Codebook(shared=True).plan(few) != Codebook().plan(few)


def test_a_few_rows_are_looked_up_in_the_codebook_of_all():
    x = gauss((400, 3))
    stage = Codebook(entries=300)
    planes = stage.encode(x)
    some = stage.hold(x[7:9], planes)
    assert torch.equal(some["codes"], planes["codes"][7:9])
    assert stage.hold(x[:0], planes)["codes"].shape == (0, 3)


@pytest.mark.parametrize("kind", [Codebook1, Codebook2])
def test_formats_of_old_files_are_not_written(kind):
    with pytest.raises(TensorError, match=f"codebook@{kind.version} is a format of old files"):
        kind().encode(torch.ones(3))
    for wrong in ({"table": b"1234"}, {"table": b"1234", "shared": True}, {"shared": True, "dtype": "float32"}):
        with pytest.raises(ValueError, match="table goes with shared: true and the dtype"):
            kind(**wrong)
    for table in (b"", b"123456", bytes(4 * 17)):
        with pytest.raises(ValueError, match="is not 1 to 16 entries of 1 float32 numbers"):
            kind(shared=True, dtype="float32", table=table)


@pytest.mark.parametrize("value", [True, False])
def test_a_recipe_that_says_shared_is_told_about_groups(value):
    with pytest.raises(RecipeError, match=r"stages\[0\]\.shared \(recipe\): .*write group: all"):
        recipe_from({"stages": [{"use": "codebook", "shared": value}]})
    assert {"group", "dims"} <= set(stage_schema("codebook")[0]["properties"])
    assert "shared" not in stage_schema("codebook")[0]["properties"]


def test_gradient_of_an_entry_is_the_sum_over_its_codes():
    planes = Codebook(entries=4, dims=2).encode(gauss((6, 5)))
    book = planes["codebook"].requires_grad_()
    y = Codebook(entries=4, dims=2).decode({**planes, "codebook": book}, PlaneSpec((6, 5), "float32"))
    y.sum().backward()
    codes = planes["codes"]
    first = codes.reshape(-1).bincount(minlength=4)
    second = codes[:, :2].reshape(-1).bincount(minlength=4)  # the third vector of a row has one value
    assert torch.equal(book.grad, torch.stack([first, second], dim=1).float())


def test_what_does_not_fit_is_refused_with_a_remedy():
    with pytest.raises(SpecError, match="codebook takes real planes"):
        Codebook().plan(PlaneSpec((3,), "int8", 0, 5))
    with pytest.raises(TensorError, match=r"entries up to 1e\+06 overflow a codebook in float16; say dtype: float32"):
        Codebook(dtype="float16").encode(torch.tensor([1e6, 2.0]))
    with pytest.raises(TensorError, match="in float32; say dtype: float64"):
        Codebook(dtype="float32").encode(torch.tensor([1e60, 2.0], dtype=torch.float64))
    for entries, dims in ((1, 1), (65537, 1), (4, 0)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"entries": entries, "dims": dims}, Codebook)
