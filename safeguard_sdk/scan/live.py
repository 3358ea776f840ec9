"""The live view of a scan in a terminal: images a second, time left, what was flagged and what failed."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from safeguard_sdk.scan.options import Progress as ScanProgress


class LiveView:
    """A context whose `show` takes the progress of a scan; silent where stderr is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._view = Progress(
            SpinnerColumn(), BarColumn(), TextColumn("{task.completed:,.0f} of {task.fields[of]}"),
            TextColumn("{task.fields[rate]:.1f} img/s"), TimeRemainingColumn(),
            TextColumn("[yellow]{task.fields[flagged]:,} flagged[/] [red]{task.fields[failed]:,} failed[/]"),
            console=console, disable=not console.is_terminal, transient=True)
        self._task = self._view.add_task("", total=None, of="…", rate=0.0, flagged=0, failed=0)

    def __enter__(self) -> LiveView:
        self._view.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._view.stop()

    def show(self, progress: ScanProgress) -> None:
        labels = progress.labels
        self._view.update(
            self._task, completed=progress.before + progress.rows, total=progress.total,
            of="…" if progress.total is None else f"{progress.total:,}",
            rate=progress.rows / max(progress.seconds, 1e-9), flagged=labels["review"] + labels["unsafe"],
            failed=labels["failed"])
