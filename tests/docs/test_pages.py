"""What all pages have in common: examples run, links lead somewhere, every module and release is mentioned."""

from __future__ import annotations

import doctest
import re
from importlib.metadata import version
from pathlib import Path

import pytest

import stackc
from stackc.util import errors
from tests.helpers.tiny import tiny_classifier, tiny_reviews

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("C*.md"), *(ROOT / "examples").rglob("*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_python_api(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reviews = tiny_reviews(tmp_path / "reviews")
    names = {
        "folder": str(tiny_classifier(tmp_path / "tiny")),
        "reviews": str(reviews),
        "training": str(reviews.with_name("reviews-train.tsv")),
    }
    parsed = doctest.DocTestParser().get_doctest(
        page("docs/python-api.md"), names, "python-api.md", "docs/python-api.md", 0
    )
    assert len(parsed.examples) > 25
    failures: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(parsed, out=failures.append)
    assert not failures, "".join(failures)


def test_python_api_lists_every_error():
    kinds = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.StackcError)
    }
    assert set(re.findall(r"^\| `(\w+Error)` \|", page("docs/python-api.md"), re.MULTILINE)) == kinds - {"StackcError"}


def test_architecture_names_every_folder():
    text = page("docs/architecture.md")
    folder = Path(stackc.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    missing = {name for name in modules - {"__init__"} if f"`{name}`" not in text}
    assert not missing
    named = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert set(named) <= modules | {"transforms", "recipes"}


def test_changelog_names_this_version():
    assert re.search(rf"^## \[{re.escape(version('stackc'))}\]", page("CHANGELOG.md"), re.MULTILINE)


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in _anchors(other.read_text(encoding="utf-8")), f"{path.name}: {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_pages_mention_are_there(path):
    for name in re.findall(
        r"`((?:docs|tests|examples|benchmarks|recipes|stackc|transforms)/[\w./+-]*)`", path.read_text()
    ):
        assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_commands_and_options_of_the_pages_exist():
    from stackc.cli.app import app

    commands = {command.name for command in app.registered_commands}
    sources = "".join(path.read_text(encoding="utf-8") for path in (Path(stackc.__file__).parent / "cli").glob("*.py"))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        blocks = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
        lines = re.findall(r"`(stackc [^`\n]+)`", text) + re.findall(r"^ *(stackc .+)$", blocks, re.MULTILINE)
        for line in lines:
            command = line.split()[1]
            assert command in commands or command.startswith("-"), f"{path.name}: {line}"
            for option in re.findall(r" --([a-z][\w-]*)", line):
                known = f'"--{option}"' in sources or re.search(rf"\b{option.replace('-', '_')}: ", sources)
                assert known or option == "help", f"{path.name}: {line}"
