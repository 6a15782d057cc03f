"""Resident memory by label."""

from __future__ import annotations

import threading

import pytest

from stackc.util.peak_memory import MemoryMeter, resident_bytes

BLOCK = 64 << 20


def test_a_block_of_memory_shows() -> None:
    with MemoryMeter() as meter:
        before = resident_bytes()
        with meter.during("large"):
            block = bytearray(BLOCK)
            block[::4096] = b"x" * len(block[::4096])
        del block
        with meter.during("small"):
            pass
    assert meter.peaks["large"] >= before + BLOCK * 0.9
    assert set(meter.peaks) == {"large", "small"}


def test_peaks_between_samples_of_the_block_are_seen() -> None:
    with MemoryMeter() as meter:
        before = resident_bytes()
        with meter.during("work"):
            block = bytearray(BLOCK)
            block[::4096] = b"x" * len(block[::4096])
            threading.Event().wait(0.2)
            del block
    assert meter.peaks["work"] >= before + BLOCK * 0.9


def test_a_label_open_twice_stays_open_until_both_end() -> None:
    meter = MemoryMeter()
    with meter:
        with meter.during("a"):
            with meter.during("a"):
                pass
            assert meter._open["a"] == 1
        assert meter._open["a"] == 0


def test_the_thread_ends_and_errors_pass() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), MemoryMeter() as meter, meter.during("a"):
        raise ZeroDivisionError
    assert threading.active_count() == before
    assert meter.peaks["a"] > 0


def test_without_a_thread_memory_is_sampled_where_labels_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with MemoryMeter() as meter, meter.during("large"):
        block = bytearray(BLOCK)
        block[::4096] = b"x" * len(block[::4096])
    assert meter.peaks["large"] >= BLOCK
