"""Where caches go, and that a user without a home gets along without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stackc.healing.teacher import teacher_cache
from stackc.models import open_reference
from stackc.tasks.data.hub import read_hub
from stackc.util.cache import cache_folder
from stackc.util.errors import DataError, ModelError


def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of the process has no entry in the list of users, as in a container that is run under a number."""
    import pwd

    for name in ("STACKC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STACKC_CACHE", "~/kept")
    assert cache_folder() == Path.home() / "kept"
    monkeypatch.delenv("STACKC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "stackc"
    for ignored in ("", os.path.join("not", "absolute")):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == Path.home() / ".cache" / "stackc"


@pytest.mark.parametrize("home", ["~", "~/home", "somewhere"])
def test_a_home_that_is_none_becomes_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str) -> None:
    monkeypatch.delenv("STACKC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    assert cache_folder() is None


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    nobody(monkeypatch)
    assert cache_folder() is None
    assert teacher_cache(open_reference(str(tiny_model))) is None
    monkeypatch.setenv("STACKC_CACHE", "~/kept")
    assert cache_folder() is None


def test_a_download_without_a_home_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    nobody(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HOME", "~/.cache/huggingface")
    with pytest.raises(ModelError, match="HF_HOME"):
        open_reference("someone/model")
    with pytest.raises(DataError, match="HF_HOME"):
        read_hub("someone/data", None, "test")
    assert list(tmp_path.iterdir()) == []
