"""Progress goes to stderr, only where somebody looks, and only for work that takes a while."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from stackc.cli import progress as module
from stackc.cli.progress import LineProgress, showing_progress


def terminal() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=100, force_terminal=True, color_system=None), file


def work(console: Console, *, quiet: bool = False) -> None:
    import time

    with showing_progress(quiet=quiet, console=console) as progress, progress.task("encode [x]", 4) as advance:
        advance(1)
        time.sleep(0.3)
        advance(2)


def test_long_work_shows_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    console, file = terminal()
    work(console)
    assert "encode [x]" in file.getvalue()
    assert "25%" in file.getvalue()
    assert "left" in file.getvalue()


def test_between_tasks_it_says_that_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    console, file = terminal()
    with showing_progress(console=console):
        pass
    assert "working" in file.getvalue()


def test_short_work_shows_no_bar() -> None:
    console, file = terminal()
    work(console)
    assert "encode" not in file.getvalue()


def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    console, file = terminal()
    work(console, quiet=True)
    assert file.getvalue() == ""


def test_where_no_thread_can_move_a_bar_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    console, _ = terminal()
    with showing_progress(console=console) as progress, progress.task("work", 1) as advance:
        advance(1)
    assert isinstance(progress, LineProgress)


def test_without_a_terminal_there_are_no_bars() -> None:
    file = io.StringIO()
    work(Console(file=file, width=100))
    assert file.getvalue() == ""


def test_without_a_terminal_long_work_gets_a_line_now_and_then() -> None:
    now = 0.0
    lines: list[str] = []
    with LineProgress(lines.append, lambda: now).task("encode", 100) as advance:
        for _ in range(100):
            now += 1
            advance(1)
    assert lines == [
        "encode: 30.0 %, about 70.0 s left",
        "encode: 60.0 %, about 40.0 s left",
        "encode: 90.0 %, about 10.0 s left",
        "encode: done in 100 s",
    ]


def test_short_work_gets_no_line() -> None:
    lines: list[str] = []
    with LineProgress(lines.append, lambda: 0.0).task("encode", 2) as advance:
        advance(2)
    assert lines == []


def test_the_bars_go_away_when_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    console, file = terminal()
    with (
        pytest.raises(ValueError, match="no"),
        showing_progress(console=console) as progress,
        progress.task("encode", 4),
    ):
        raise ValueError("no")
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back
