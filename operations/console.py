"""What long work shows in a terminal. Everything goes to stderr; where that is no terminal, plain lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

Event = dict[str, Any]

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def ingest_status() -> Iterator[Callable[[Event], None]]:
    """A line that follows the events of one ingest."""
    with Status("joining the groups ...", console=stderr) as status:

        def show(event: Event) -> None:
            match event["event"]:
                case "ready":
                    listening = "listening; Ctrl-C ends it and commits everything received"
                    status.update(listening)
                    if not stderr.is_terminal:
                        stderr.print(listening)
                    if event["warning"]:
                        stderr.print(event["warning"], style="yellow", markup=False)
                case "progress":
                    status.update(
                        f"{event['received']:,} received, {event['durable']:,} durable, "
                        f"{event['packets']:,} packets decoded, {event['lost']:,} lost"
                    )
                case "committed":
                    rows = sum(event["rows"].values())
                    stderr.print(f"segment {event['segment']}: {rows:,} rows committed")

        yield show


class RunProgress:
    """Two bars: what the exchange has sent, what ingest has decoded."""

    def __init__(self, ready: Event, *, quiet: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=stderr,
            disable=quiet or not stderr.is_terminal,
        )
        self._ready = ready
        self._sent = self._progress.add_task("exchange", total=1.0, what="")
        self._stored = self._progress.add_task("ingest", total=1.0, what="")
        self._share = 0.0
        self._packets = 0

    def __enter__(self) -> "RunProgress":
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def sent(self, event: Event) -> None:
        """An event of the exchange."""
        if event["event"] == "done":
            self._share = 1.0
        elif event["event"] == "progress" and event["ts"] is not None:
            first, last = self._ready["ts_first"], self._ready["ts_last"]
            self._share = min(1.0, (event["ts"] - first) / max(1, last - first))
        else:
            return
        self._packets = event["packets"]
        self._progress.update(self._sent, completed=self._share, what=f"{self._packets:,} packets sent")

    def stored(self, event: Event) -> None:
        """An event of ingest."""
        if event["event"] == "done":
            self._progress.update(self._stored, completed=1.0)
        if event["event"] in ("progress", "done"):
            share = self._share * min(1.0, event["packets"] / max(1, self._packets))
            lost = f", {event['lost']:,} lost" if event["lost"] else ""
            what = f"{event['packets']:,} packets decoded{lost}"
            done = 1.0 if event["event"] == "done" else share
            self._progress.update(self._stored, completed=done, what=what)


def print_summary(result: dict[str, Any], seconds: dict[str, float], report: Path) -> None:
    """One screen on stdout: what arrived, what is stored, what research found, where to look."""
    ingest, proof = result["ingest"], result["proof"]
    console = Console(highlight=False, markup=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    source = result["source"]["name"]
    table.add_row("source", Text(f"{source}, {result['venue']} channel {result['channel']}"))
    for feed in ("A", "B"):
        if feed in result["sent"]:
            sent = result["sent"][feed]
            table.add_row(
                f"feed {feed}",
                f"{sent['sent']:,} sent, {sent['dropped']:,} dropped on purpose, "
                f"{ingest['kernel_drops'].get(feed, 0):,} dropped by the kernel",
            )
    table.add_row("arrived", f"{ingest['packets']:,} packets, {ingest['messages']:,} messages")
    late = f", {ingest['late']:,} late" if ingest["late"] else ""
    bad = f", {ingest['malformed']:,} malformed" if ingest["malformed"] else ""
    table.add_row("missing", f"{proof['gaps']:,} packets{late}{bad}")
    table.add_row("stored", "  ".join(f"{name} {rows:,}" for name, rows in sorted(ingest["rows"].items())))
    table.add_row("commit", result["data_commit"])
    table.add_row("seconds", "  ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    console.print(proof["statement"], style="green" if proof["equal"] else "bold red")
    console.print(table)
    if result.get("research"):
        console.print(research_lines(result["research"]))
    console.print(Text.assemble(("report   ", "bold"), str(report)), soft_wrap=True)  # whole, to be copied


def research_lines(research: dict[str, Any]) -> RenderableType:
    """What the research stages found, for the summary: accuracies, profits, why it was skipped.

    ``research``: as in ``run.json``, the value of "research"; stages may be missing. The report judges with
    intervals; these lines only say what the stages said.
    """
    lines: list[RenderableType] = []
    results = {
        stage: (research.get(stage) or {}).get("result") or {}
        for stage in ("features", "training", "backtest")
    }
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column()
    if dataset := results["features"].get("dataset"):
        made = results["features"]
        counted = (("frames", "looks at a book"), ("clean_frames", "usable"), ("labels", "labels"))
        told = [f"{made[key]:,} {what}" for key, what in counted if isinstance(made.get(key), int)]
        facts.add_row("dataset", Text(", ".join([str(dataset), *told])))
    if accuracy := results["training"].get("accuracy"):
        lines.append(_accuracies(accuracy))
    for name, one in (results["backtest"].get("strategies") or {}).items():
        facts.add_row("backtest", Text(_profit(str(name), one)))
    if facts.row_count:
        lines.insert(0, facts)
    if reason := research.get("skipped"):
        lines.append(Text(f"research stopped: {reason}", style="yellow"))
    return Group(*lines)


def _accuracies(accuracy: dict[str, dict[str, float]]) -> Table:
    """One row a model, one column a part of the time."""
    splits = [
        split for split in ("train", "validation", "test") if any(split in a for a in accuracy.values())
    ]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("accuracy")
    for split in splits:
        table.add_column(split, justify="right")
    for model, by_split in accuracy.items():
        known = [by_split.get(split) for split in splits]
        table.add_row(Text(model), *("–" if value is None else f"{100 * value:.1f} %" for value in known))
    return table


def _profit(name: str, one: dict[str, Any]) -> str:
    """One strategy in one line."""
    parts = [f"{name}: {one['pnl']:+,.2f} {one.get('currency') or ''}".rstrip() + " after costs"]
    if one.get("gross_pnl") is not None:
        parts.append(f"{one['gross_pnl']:+,.2f} before them")
    if one.get("sharpe") is not None:
        bounds = [one.get("sharpe_low"), one.get("sharpe_high")]
        known = None not in bounds
        parts.append(
            f"annualised Sharpe {one['sharpe']:,.2f}"
            + (f" ({bounds[0]:,.2f} to {bounds[1]:,.2f})" if known else "")
        )
    return ", ".join(parts)
