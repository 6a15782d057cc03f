"""The caller's process: what of its state results must not depend on, and what has to be afterwards as it was before.

torch and numpy have settings that change what the same code computes: a default dtype and device, recorded gradients,
autocasting, floating-point errors that are raised. A program that calls stackc has its reasons for them, and stackc needs
its own. Most of them belong to a thread, and are set and put back there. What belongs to the whole process is shared by all
threads that are in the library: the first one in sets it, the last one out puts it back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from stackc.util.lazy import numpy, torch
from stackc.util.silence import warnings_without_errors

#: Kinds of devices that autocasting is switched on for, one by one.
_DEVICES = ("cpu", "cuda", "mps", "xpu")


class _Thread(threading.local):
    """Whether the thread at hand is in the library already."""

    inside = False


class _DefaultDtype:
    """The default dtype of torch belongs to the process: float32 while any thread is in the library."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._callers: torch.dtype | None = None

    @contextmanager
    def float32(self) -> Iterator[None]:
        """Keep it at float32 until the block ends in the last thread."""
        with self._lock:
            if not self._threads:
                self._callers = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._threads += 1
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                # Unless somebody has set another one in the meantime, who will want to keep it.
                if not self._threads and self._callers is not None and torch.get_default_dtype() == torch.float32:
                    torch.set_default_dtype(self._callers)


_thread = _Thread()
_default_dtype = _DefaultDtype()


@contextmanager
def isolated() -> Iterator[None]:
    """Compute as in a fresh process, whatever state the caller's is in, and leave that state alone.

    Gradients can be recorded, nothing is autocast, new tensors are float32 on the CPU, numpy treats floating-point errors as
    it does by default, and warnings of other packages are not errors. Every public entry of the library runs in this; inside
    it does nothing, so that what the library sets for itself stays.

    Examples
    --------
    >>> with torch.inference_mode(), isolated():
    ...     torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    (False, True)
    """
    if _thread.inside:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(warnings_without_errors())
        stack.enter_context(_default_dtype.float32())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # as seldom as can be: it slows down all that torch does
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(numpy.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        _thread.inside = True
        try:
            yield
        finally:
            _thread.inside = False


@contextmanager
def contained() -> Iterator[None]:
    """Undo what somebody else's code sets for the whole program while it runs, such as a default dtype.

    Examples
    --------
    >>> with contained():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    dtype, device, gradients = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
