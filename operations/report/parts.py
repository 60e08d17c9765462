"""What the page is made of, beside charts: sentences with a colour, and tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a head of desk reads first."""

    state: str
    """proven, explained, unexplained, unproven or empty: the page's style."""
    label: str
    sentence: str
    more: str = ""
    """A second sentence, of another matter."""


@dataclass(frozen=True)
class Table:
    """Cells are text; the columns in ``words`` hold words, the others numbers."""

    head: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)
