"""What long work shows in a terminal. Everything goes to stderr; where that is no terminal, plain lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.status import Status

Event = dict[str, Any]

stderr = Console(stderr=True, highlight=False)


@contextmanager
def ingest_status() -> Iterator[Callable[[Event], None]]:
    """A line that follows the events of one ingest."""
    with Status("joining the groups ...", console=stderr) as status:

        def show(event: Event) -> None:
            match event["event"]:
                case "ready":
                    status.update("listening; Ctrl-C ends it and commits everything received")
                    if event["warning"]:
                        stderr.print(f"[yellow]{event['warning']}")
                case "progress":
                    status.update(
                        f"{event['received']:,} received, {event['durable']:,} durable, "
                        f"{event['packets']:,} packets decoded, {event['lost']:,} lost"
                    )
                case "committed":
                    rows = sum(event["rows"].values())
                    stderr.print(f"segment {event['segment']}: {rows:,} rows committed")

        yield show
