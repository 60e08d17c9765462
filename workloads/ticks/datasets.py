"""When a dataset is whole: what the job that makes one writes down, and what a reader asks for.

A dataset is made part by part: a part is one venue, trading date and channel. The table `cleaning` is
written last of each part, one file a part, and the source of each of its commits says how many parts the
dataset has. So a reader knows of a part that nobody began.
"""

from collections.abc import Mapping

from workloads.ticks.archive import Archive, DataCommit, DatasetPartition

LAST_TABLE = "cleaning"
"""Whoever reads the state of a dataset's tables reads this one's first: then the others are not older."""
_PARTS = "parts"


def whole_of(parts: int) -> Mapping[str, str]:
    """What the source of a commit to `LAST_TABLE` holds besides; ``parts``: of the whole dataset."""
    return {_PARTS: str(parts)}


def missing_parts(archive: Archive, dataset: str, at: DataCommit) -> str | None:
    """What a dataset lacks as of a data commit, in words; None: it is whole."""
    done: list[str] = []
    expected = ""
    for partition in archive.partitions(LAST_TABLE, DatasetPartition):
        n = at.entries.get(f"{LAST_TABLE}/{partition.path}", 0)
        if partition.dataset != dataset or not n:
            continue
        for entry in archive.log(LAST_TABLE, partition)[:n]:
            done += [f"{partition.date} {file.stem}" for file in entry.added]
            expected = entry.source.get(_PARTS, expected)
    if not done:
        return "none of its channels and dates is done"
    if not expected.isdecimal() or len(done) < int(expected):
        return f"{len(done)} of {expected or 'unknown'} channels and dates are done ({_listed(done)})"
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
