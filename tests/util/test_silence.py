"""Silence is kept in the threads that ask for it, and nowhere else."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest

from stackc.util.silence import silence, warnings_without_errors


def warn_as(module: str) -> None:
    warnings.warn_explicit("of that module", UserWarning, "file.py", 1, module=module)


def test_warnings_and_lines_of_this_thread_alone(caplog: pytest.LogCaptureFixture) -> None:
    filters = list(warnings.filters)
    raised: list[Warning] = []

    def other() -> None:
        logging.getLogger("program").warning("heard")
        try:
            warn_as("program")
        except UserWarning as warning:
            raised.append(warning)

    with silence():
        warn_as("library")
        logging.getLogger("library").error("not heard")
        logging.getLogger("library").critical("too grave")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with silence():
            logging.getLogger("library").error("not heard")
        logging.getLogger("library").error("not heard")
    assert len(raised) == 1
    assert [record.message for record in caplog.records] == ["too grave", "heard"]
    assert warnings.filters == filters
    assert all(not handler.filters for handler in [caplog.handler, *logging.root.handlers])


def test_a_handler_that_comes_meanwhile_is_reached_by_the_next_block() -> None:
    lines: list[str] = []

    class Late(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Late()
    try:
        with silence():
            logging.root.addHandler(handler)
            with silence():
                logging.getLogger("library").error("not heard")
    finally:
        logging.root.removeHandler(handler)
    assert lines == []
    assert handler.filters == []


def test_blocks_that_overlap_in_two_threads_leave_nothing() -> None:
    filters = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with silence():
            inside.set()
            leave.wait(20)
            warn_as("library")

    thread = threading.Thread(target=stay)
    with silence():
        thread.start()
        inside.wait(20)
    with pytest.raises(UserWarning):
        warn_as("program")
    leave.set()
    thread.join()
    assert warnings.filters == filters


def test_a_filter_that_catch_warnings_brings_back_is_taken_out_too() -> None:
    filters = list(warnings.filters)
    block = silence()
    block.__enter__()
    with warnings.catch_warnings():
        block.__exit__(None, None, None)
    with silence():
        pass
    assert warnings.filters == filters


def test_warnings_of_others_are_shown_and_own_ones_raised() -> None:
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        with warnings_without_errors():
            warn_as("transformers.models")
            with pytest.raises(UserWarning):
                warn_as("stackc.planning.encode")
        with pytest.raises(UserWarning):
            warn_as("transformers.models")
    assert [str(warning.message) for warning in caught] == ["of that module"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        with warnings_without_errors():
            warn_as("transformers.models")
    assert caught == []
    assert warnings.filters == filters
