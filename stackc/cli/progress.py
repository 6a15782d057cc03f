"""Progress of long work on stderr: bars in a terminal, a rare line elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stackc.cli.terminal import messages
from stackc.util.humanise import percent_text, seconds_text
from stackc.util.parallel import can_start_thread
from stackc.util.progress import Advance, Progress

if TYPE_CHECKING:
    from rich.console import Console

#: Work shorter than this leaves no trace.
_PATIENCE_SECONDS = 1.0
#: Without a terminal: a line at most this often, and none about work that took less.
_LINE_SECONDS = 30.0


@contextmanager
def showing_progress(*, quiet: bool = False, console: Console | None = None) -> Iterator[Progress]:
    """The progress to hand to the library, for the time of a command.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    console : Console, optional
        Where to show it; stderr without it.
    """
    if quiet:
        yield Progress()
        return
    console = console or messages()
    if not console.is_terminal or not can_start_thread():  # bars move in a thread of their own
        yield LineProgress(lambda line: console.print(line, soft_wrap=True))
        return
    with BarProgress(console) as bars:
        yield bars


class LineProgress(Progress):
    """A plain line about work that takes long, now and then, and one at its end."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Announce a piece of work of ``total`` steps."""
        begin = last = self._clock()
        done = 0

        def advance(steps: int) -> None:
            nonlocal done, last
            done += steps
            now = self._clock()
            if now - last >= _LINE_SECONDS and 0 < done < total:
                last = now
                left = (now - begin) * (total - done) / done
                self._write(f"{description}: {percent_text(done / total)} %, about {seconds_text(left)} s left")

        yield advance
        elapsed = self._clock() - begin
        if elapsed >= _LINE_SECONDS:
            self._write(f"{description}: done in {seconds_text(elapsed)} s")


class BarProgress(Progress):
    """A bar for every piece of work that runs, with the time that it still takes; gone when the command ends.

    Between two pieces (imports, tokenising, settling) a line without a bar says that the program is alive.
    """

    def __init__(self, console: Console) -> None:
        self._bars = _late_bars(console)
        self._idle = self._bars.add_task("working", total=None)

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Announce a piece of work of ``total`` steps."""
        self._bars.update(self._idle, visible=False)
        task = self._bars.add_task(description, total=total)
        try:
            yield lambda steps: self._bars.advance(task, steps)
        finally:
            self._bars.remove_task(task)
            with contextlib.suppress(KeyError):
                self._bars.reset(self._idle, visible=True)


def _late_bars(console: Console) -> Any:
    from rich.progress import BarColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Table
    from rich.text import Text

    class LateBars(Bars):
        """Bars that show after a moment, so that short work does not flicker."""

        def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
            return super().make_tasks_table([task for task in tasks if (task.elapsed or 0) >= _PATIENCE_SECONDS])

    class Left(TimeRemainingColumn):
        """Time that remains, or that has passed where nobody knows how much there is to do."""

        def render(self, task: Task) -> Text:
            if task.total is None:
                return TimeElapsedColumn().render(task)
            return super().render(task).append(" left")

    return LateBars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        Left(),
        console=console,
        transient=True,
        redirect_stdout=False,
    )
