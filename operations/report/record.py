"""The run's record inside the report, so that the page alone is enough to repeat the run."""

import html.parser
import json
from pathlib import Path
from typing import Any

from workloads.errors import WorkloadError

ELEMENT = "run-record"
"""Id of the script element (``application/json``) that holds ``run.json``."""
RUN_FILE = "run.json"


class RecordError(WorkloadError):
    """No record of a run can be read there."""


def embedded(value: Any, *, allow_nan: bool = False) -> str:
    """JSON that can stand inside a script element: no character that HTML could read as markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=allow_nan)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def run_record(path: Path) -> dict[str, Any]:
    """``run.json`` of a run, from its report, its folder or the file itself.

    Raises
    ------
    RecordError
        If there is none, or the page is not a report that holds one.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RUN_FILE
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".html", ".htm"):
            finder = _Finder()
            finder.feed(text)
            text = finder.text or ""
        record = json.loads(text)
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} holds no record of a run ({error}); name a report.html that `tickworks run` wrote, or "
            "the folder of a run"
        ) from error
    if not isinstance(record, dict):
        raise RecordError(f"{path} holds no JSON object; name a report or the folder of a run")
    return record


class _Finder(html.parser.HTMLParser):
    """Takes the text of the one script element that holds the record."""

    def __init__(self) -> None:
        super().__init__()
        self.text: str | None = None
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self._inside = (
            tag == "script" and about.get("id") == ELEMENT and about.get("type") == "application/json"
        )

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text = (self.text or "") + data
