"""What a job shows while it runs: a bar for each of its stages, or a line where that is no terminal."""

from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from operations.console import Event, stderr


class JobProgress:
    """Follows the ``progress`` events of one job. A context manager; `seen` takes every event."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name = name
        self._quiet = quiet
        self._plain = not stderr.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=stderr,
            disable=quiet or self._plain,
        )
        self._stages: dict[str, TaskID] = {}

    def __enter__(self) -> "JobProgress":
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)

    def seen(self, event: Event) -> None:
        """Show an event: how far a stage is, or that the job is tried again."""
        if event["event"] == "retry" and not self._quiet:
            stderr.print(f"{self._name}: tried again; {event['message']}", style="yellow", markup=False)
        if event["event"] != "progress":
            return
        stage, done, total = str(event.get("stage", self._name)), event["done"], event.get("total")
        if stage not in self._stages:
            description = f"{self._name}: {stage}"
            self._stages[stage] = self._bars.add_task(description, total=total, what="")
            if self._plain and not self._quiet:
                stderr.print(description, markup=False)
        self._bars.update(self._stages[stage], completed=done, total=total, what=_what(event))


def _what(event: dict[str, Any]) -> str:
    """``3/8 partitions, loss 0.981``."""
    of = "" if event.get("total") is None else f"/{event['total']:,}"
    known = {"event", "stage", "done", "total", "unit"}
    extras = "".join(
        f", {name} {value:.4g}"
        for name, value in event.items()
        if name not in known and isinstance(value, int | float)
    )
    return f"{event['done']:,}{of} {event.get('unit', '')}".rstrip() + extras
