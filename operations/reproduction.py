"""Rerun the research of a run from what it recorded, and compare every file and number of the result.

The rerun works in an archive of its own. That holds the recorded state of the market tables (linked, not
copied) and whatever the rerun writes, so that nothing of the first run can leak into the second or be
changed by it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operations.report.record import run_record
from operations.stages import STAGES
from workloads.errors import WorkloadError
from workloads.ticks.archive import Archive, DatasetPartition, RunPartition, code_version, open_archive
from workloads.ticks.commits import DataCommit
from workloads.ticks.partitions import AnyPartition
from workloads.ticks.schema import DATASET_TABLES, MARKET_TABLES
from workloads.ticks.sharing import share

RESEARCH = STAGES[1:]
WRITES: dict[str, tuple[str, ...]] = {
    "features": DATASET_TABLES,
    "training": ("models", "scores", "learning"),
    "backtest": ("orders", "fills", "ledger"),
}
"""Tables of each stage."""
MAY_DIFFER = frozenset({"event", "seconds", "restarts", "device"})
"""Parts of a result that tell of the rerun, not of what came out."""

Json = dict[str, Any]
Say = Callable[[str], None]


class ReproductionError(WorkloadError):
    """A run cannot be repeated from what is there; says what is missing and where it might be."""


@dataclass(frozen=True)
class Recorded:
    """A finished run, as its ``run.json`` tells it."""

    folder: Path
    run: Json

    @property
    def research(self) -> Json:
        """The record of the research stages."""
        found = self.run.get("research")
        if not found:
            raise ReproductionError(
                f"the run in {self.folder} records no research stages: it ended at its ticks"
            )
        return dict(found)

    @property
    def archive(self) -> Path:
        """Where the run keeps its tables, wherever the folder lies now."""
        return self.folder / "archive"

    def result(self, stage: str) -> Json:
        """The ``done`` event of a stage."""
        if stage not in self.research or "result" not in self.research[stage]:
            why = self.research.get("skipped") or "the run ended before it"
            raise ReproductionError(f"{self.folder} has no {stage} ({why})")
        return dict(self.research[stage]["result"])


@dataclass
class Compared:
    """One table or one stage's numbers, first run beside rerun."""

    stage: str
    what: str
    count: int = 0
    """Files or numbers that were compared."""
    rows: int | None = None
    differences: list[str] = field(default_factory=list)


def recorded(report: Path) -> Recorded:
    """The run that a report, a ``run.json`` or a run's folder belongs to; a report alone is enough."""
    return Recorded((report if report.is_dir() else report.parent).resolve(), run_record(report))


def reproduce(first: Recorded, source: str, scratch: Path, stage: str, say: Say) -> list[Compared]:
    """Rerun ``stage`` and the ones behind it in ``scratch``; compare what they wrote and said.

    Parameters
    ----------
    source : str
        URI of the archive that the first run used.
    scratch : Path
        Empty folder; afterwards it holds the rerun's archive, configs and logs.
    stage : str
        First stage to rerun; the tables of earlier ones are taken from ``source``.

    Raises
    ------
    ReproductionError, WorkloadError
        If what was recorded is not there, or a stage fails.
    """
    stages = [s for s in RESEARCH[RESEARCH.index(stage) :] if s in first.research]
    first.result(stage)
    needed = _needed(first, stage)
    say(f"sharing {len(needed.entries)} logs of {source}")
    files = share(source, needed, scratch / "archive")
    say(f"{files} files are as recorded")
    again: dict[str, Json] = {s: first.result(s) for s in RESEARCH[: RESEARCH.index(stage)]}
    for name in stages:
        say(f"running {name}")
        config = rerun_config(name, first, str(scratch / "archive"), again)
        again[name] = _run(name, config, scratch / "jobs")
    say("comparing")
    ours, theirs = open_archive(source), open_archive(str(scratch / "archive"))
    compared: list[Compared] = []
    for name in stages:
        result = first.result(name)
        compared += compare_tables(name, ours, theirs, identity(name, result), identity(name, again[name]))
        compared.append(compare_numbers(name, result, again[name]))
    return compared


def code_note(first: Recorded) -> str | None:
    """What to say where the code is not the one that made the first run."""
    then, now = str(first.run.get("version", "unknown")), code_version()
    if then == now:
        return None
    return f"the run was made by version {then}, this is {now}: differences may come from that alone"


def rerun_config(stage: str, first: Recorded, archive: str, results: Mapping[str, Json]) -> Json:
    """The recorded config, on the scratch archive and on what the rerun's earlier stages made.

    The market is pinned to the state that the first run read, even where that had asked for the newest.
    """
    changed: Json = {**first.research[stage]["config"], "archive": archive}
    if stage in ("training", "backtest"):
        changed["dataset"] = results["features"]["dataset"]
    if stage == "training":
        changed["checkpoints"] = None
    if stage == "backtest":
        changed["scores_run"] = results["training"]["run"]
    if stage in ("features", "backtest"):
        read = first.result(stage)["data_commit"]
        market = {path: n for path, n in read["entries"].items() if path.split("/")[0] in MARKET_TABLES}
        changed["data_commit"] = {"id": read["id"], "entries": market}
    return changed


def _needed(first: Recorded, stage: str) -> DataCommit:
    """The logs that the rerun must find: the market's, and those of the stages that are not rerun."""
    rerun = RESEARCH[RESEARCH.index(stage) :]
    made_anew = {table for name in rerun for table in WRITES[name]}
    entries: dict[str, int] = {}
    for name in RESEARCH:
        if name in first.research:
            for path, n in first.result(name).get("data_commit", {}).get("entries", {}).items():
                if path.split("/")[0] not in made_anew:
                    entries[path] = max(n, entries.get(path, 0))
    return DataCommit(str(first.result("features")["data_commit"]["id"]), entries)


def _run(stage: str, config: Json, folder: Path) -> Json:
    """One stage: training on a Ray of its own where it was made on one, the others as plain processes."""
    from workloads.runtime.submit import JobSpec, ProcessJobs

    spec = JobSpec.of(stage, f"workloads.{stage}.job", json.dumps(config, indent=2))
    if stage == "training" and config.get("workers", 0):
        from workloads.runtime.cluster import LocalRay

        with LocalRay(folder) as ray:
            return dict(ray.run(spec, lambda event: None))
    return dict(ProcessJobs(folder).run(spec))


def identity(stage: str, result: Mapping[str, Any]) -> str:
    """The name under which a stage's tables lie."""
    return str(result.get("dataset" if stage == "features" else "run"))


def compare_tables(stage: str, first: Archive, again: Archive, name: str, name_again: str) -> list[Compared]:
    """Every file of a stage's tables by its stem and SHA-256."""
    compared = []
    for table in WRITES[stage]:
        ours, theirs = _files(first, table, name), _files(again, table, name_again)
        if not ours and not theirs:
            continue
        row = Compared(stage, table, count=len(ours), rows=sum(rows for _, rows in ours.values()))
        for stem in sorted(set(ours) | set(theirs)):
            if stem not in theirs:
                row.differences.append(f"{stem} is missing in the rerun")
            elif stem not in ours:
                row.differences.append(f"{stem} is new in the rerun")
            elif ours[stem] != theirs[stem]:
                row.differences.append(f"{stem} differs")
        compared.append(row)
    return compared


def _files(archive: Archive, table: str, name: str) -> dict[str, tuple[str, int]]:
    """Checksum and rows of the table's files, by date and stem."""
    places: list[tuple[str, AnyPartition]]
    if table in DATASET_TABLES:
        dates = archive.partitions(table, DatasetPartition)
        places = [(f"{p.date}/", p) for p in dates if p.dataset == name]
    else:
        places = [("", p) for p in archive.partitions(table, RunPartition) if p.run == name]
    return {
        place + file.stem: (file.sha256, file.rows)
        for place, partition in places
        for file in archive.files(table, partition)
    }


def compare_numbers(stage: str, first: Mapping[str, Any], again: Mapping[str, Any]) -> Compared:
    """Every value of a stage's result, but what tells of the rerun itself."""
    ours, theirs = dict(_leaves(first)), dict(_leaves(again))
    row = Compared(stage, "result", count=len(ours))
    for path in sorted(set(ours) | set(theirs)):
        if path not in theirs or path not in ours or ours[path] != theirs[path]:
            row.differences.append(
                f"{path}: {ours.get(path, 'nothing')} before, {theirs.get(path, 'nothing')} now"
            )
    return row


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below, by its path; floats by their shortest text, so that NaN equals itself."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if path or key not in MAY_DIFFER:
                yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _leaves(part, f"{path}[{i}]")
    else:
        yield path, json.dumps(value)
