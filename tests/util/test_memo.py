"""What is kept comes back as it was, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stackc.util.memo import Memo, code_fingerprint, key_of


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "memo", most_bytes=2000)


def test_bytes_and_files_come_back(memo: Memo, tmp_path: Path) -> None:
    memo.keep("a", "1", b"one")
    (tmp_path / "source").write_bytes(b"x" * 1000)
    memo.keep_file("b", "1", tmp_path / "source")
    assert memo.recall("a", "1") == b"one"
    assert memo.recall_file("b", "1", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"x" * 1000
    assert (memo.recall("a", "2"), memo.recall_file("b", "2", tmp_path / "other")) == (None, False)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_damaged_entry_is_not_there(memo: Memo, tmp_path: Path, at: int) -> None:
    memo.keep("a", "1", b"content" * 9)
    assert memo.folder is not None
    path = memo.folder / "a" / "1"
    for cut in (False, True):
        memo.keep("a", "1", b"content" * 9)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data[:-1] if cut else data)
        assert memo.recall("a", "1") is None
        memo.keep("a", "1", b"content" * 9)
        path.write_bytes(data[:-1] if cut else data)
        assert not memo.recall_file("a", "1", tmp_path / "target")
        assert not (tmp_path / "target").exists()
        assert not path.exists()


def test_what_was_used_longest_ago_goes_first(memo: Memo) -> None:
    for name in "abc":
        memo.keep("a", name, bytes(500))
        assert memo.folder is not None
        os.utime(memo.folder / "a" / name, (0, ord(name)))
    assert memo.recall("a", "a") is not None  # which counts as a use
    memo.keep("a", "d", bytes(500))
    assert [name for name in "abcd" if memo.recall("a", name) is not None] == ["a", "c", "d"]
    memo.keep("a", "e", bytes(3000))
    assert memo.recall("a", "e") is None
    assert memo.usage()["a"].entries == 3
    assert memo.clear().entries == 3
    assert memo.usage() == {}


def test_a_memo_without_a_place_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for memo in (Memo(), Memo(tmp_path, 0), Memo(tmp_path / "file" / "below")):
        memo.keep("a", "1", b"one")
        memo.keep_file("a", "1", tmp_path / "file")
        assert not memo.active
        assert memo.recall("a", "1") is None
        assert not memo.recall_file("a", "1", tmp_path / "target")
        assert memo.clear().entries == 0


def test_the_size_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STACKC_CACHE", str(tmp_path))
    for given, most in (("", 4_000_000_000), ("2GB", 2_000_000_000), ("10 kB", 10_000)):
        monkeypatch.setenv("STACKC_CACHE_SIZE", given)
        assert (Memo.of_user().most_bytes, Memo.of_user().active) == (most, True)
    monkeypatch.setenv("STACKC_CACHE_SIZE", "0")
    assert not Memo.of_user().active
    monkeypatch.setenv("STACKC_CACHE_SIZE", "much")
    with pytest.raises(ValueError, match="'much' is no size"):
        Memo.of_user()


def test_keys_tell_values_apart() -> None:
    keys = [key_of(*parts) for parts in ([1], ["1"], [[1]], [1, 1], [1.0], [None], [{"a": 1}], [{"b": 1}], [b"1"])]
    assert len(set(keys)) == len(keys)


def test_other_code_is_another_key(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = code_fingerprint(tmp_path)
    code_fingerprint.cache_clear()
    assert code_fingerprint(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    code_fingerprint.cache_clear()
    changed = code_fingerprint(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    code_fingerprint.cache_clear()
    assert len({before, changed, code_fingerprint(tmp_path)}) == 3
    code_fingerprint.cache_clear()
