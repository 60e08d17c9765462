"""Forecast quality: scores of the test period against what happened, each model on the same decisions.

Classes are 0 down, 1 flat, 2 up. Read from the tables `scores` and `labels`, and, where the market was
simulated, compared with the best possible forecast (`operations.report.bound`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from operations.report.arrival import integers
from operations.report.bound import best_forecast
from operations.report.cleaning import partitions_of
from operations.report.interval import Interval, difference_interval, mean_interval
from workloads.ticks.archive import Archive, RunPartition
from workloads.training import scoring

BOUND = "bound"
"""Stands among the models for the simulator's own best forecast."""
BASELINES = ("logistic", "majority")
BINS = 10


@dataclass(frozen=True)
class Quality:
    """One model on one set of decisions."""

    n: int
    accuracy: Interval
    """Share of decisions whose most probable class came true."""
    log_loss: float
    """Mean of -ln P(what came true), nats."""


@dataclass(frozen=True)
class Reliability:
    """Decisions in bins of equal count by how sure the model was of its choice."""

    confidence: NDArray[np.float64]
    """Mean probability of the chosen class."""
    hits: list[Interval]
    """How often it came true."""
    error: float
    """Mean distance of the two, weighted by count: expected calibration error."""


@dataclass(frozen=True)
class Split:
    """The scores of one part of the time."""

    n: int
    first: int
    last: int


@dataclass(frozen=True)
class Forecasts:
    """Models by name: the trained one first, then the baselines, then the bound."""

    main: str
    """The trained model."""
    n: int
    """Decisions of the test period that all models scored and whose outcome is known."""
    first: int
    last: int
    overall: dict[str, Quality]
    by_instrument: dict[int, dict[str, Quality]]
    ahead: dict[str, Interval]
    """Accuracy of the main model minus that of each other one, on the same decisions."""
    beyond_bound: dict[str, Interval]
    """Accuracy minus the bound's, for each model, on the same decisions."""
    reliability: dict[str, Reliability]
    confusion: NDArray[np.int64]
    """Decisions by [what came true, main model's choice]."""
    splits: dict[str, Split]
    """All scores of the main model, by split."""
    bound_of: int = 0
    """Decisions for which the bound is known."""


@dataclass(frozen=True)
class _Rows:
    """n decisions in the order of time, then instrument."""

    ts: NDArray[np.int64]
    instrument: NDArray[np.int64]
    values: NDArray[np.float64]
    """Whatever belongs to them, one row each."""


def forecasts(
    archive: Archive, folder: Path, dataset: str, run: str, horizon_ns: int | None
) -> Forecasts | None:
    """Compare the models of a training run on its test period; None where there is nothing to compare."""
    models = _scores(archive, run)
    labels = _labels(archive, dataset, [rows.ts for rows in models.values()])
    if not models or labels is None:
        return None
    common = _common([*models.values(), labels])
    if not len(common[0]):
        return None
    truth = labels.values[common[-1], 0].astype(np.int64) + 1
    place = common[-1]
    ts, instrument = labels.ts[place], labels.instrument[place]
    p = {name: rows.values[at] for (name, rows), at in zip(models.items(), common, strict=False)}
    p = {name: p[name] for name in sorted(p, key=lambda name: (name in BASELINES, name))}
    main = next(iter(p))
    known: NDArray[np.bool_] = np.zeros(len(truth), bool)
    best = best_forecast(folder, instrument, ts, horizon_ns) if horizon_ns else None
    if best is not None and not np.isnan(best).all():
        known = np.logical_not(np.isnan(best).any(axis=1))
        p[BOUND] = best
    everything = np.ones(len(truth), bool)
    usable = {name: known if name == BOUND else everything for name in p}
    hit = {name: scoring.hits(p[name], truth) for name in p}
    block = scoring.time_blocks(ts, horizon_ns or 1)

    def of(rows: NDArray[np.bool_]) -> dict[str, Quality]:
        return {
            name: Quality(
                int(mine.sum()),
                mean_interval(hit[name][mine], block[mine]),
                scoring.log_loss(p[name][mine], truth[mine]),
            )
            for name in p
            if (mine := rows & usable[name]).any()
        }

    def ahead(one: str, other: str) -> Interval:
        mine = usable[one] & usable[other]
        return difference_interval(hit[one][mine], hit[other][mine], block[mine])

    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (truth, p[main].argmax(axis=1)), 1)
    return Forecasts(
        main=main,
        n=len(truth),
        first=int(ts[0]),
        last=int(ts[-1]),
        overall=of(everything),
        by_instrument={one: of(instrument == one) for one in np.unique(instrument).tolist()},
        ahead={name: ahead(main, name) for name in p if name != main},
        beyond_bound={name: ahead(name, BOUND) for name in p if name != BOUND and BOUND in p},
        reliability={
            name: reliability(p[name], hit[name], block) for name in p if name not in (BOUND, "majority")
        },
        confusion=confusion,
        splits=_splits(archive, run, main),
        bound_of=int(known.sum()),
    )


def reliability(p: NDArray[np.float64], hit: NDArray[np.bool_], block: NDArray[np.int64]) -> Reliability:
    """Bin the decisions by the probability of the chosen class; ``block``: of time, for the intervals."""
    sure = p.max(axis=1)
    bins = [part for part in np.array_split(np.argsort(sure, kind="stable"), BINS) if len(part)]
    confidence = np.array([sure[part].mean() for part in bins])
    hits = [mean_interval(hit[part], block[part]) for part in bins]
    distance = [abs(c - h.value) * len(part) for c, h, part in zip(confidence, hits, bins, strict=True)]
    return Reliability(confidence, hits, float(np.sum(distance) / len(sure)))


def _scores(archive: Archive, run: str) -> Mapping[str, _Rows]:
    """P(down, flat, up) of each model on the test period."""
    if "scores" not in archive.tables():
        return {}
    partition = RunPartition(run)
    if partition not in archive.partitions("scores", RunPartition):
        return {}
    columns = ["model", "instrument_id", "ts", "p_down", "p_flat", "p_up"]
    test = archive.read("scores", partition, columns=columns, filter=pc.field("split") == "test")
    names = test["model"].cast(pa.string())
    out = {}
    for name in sorted(pc.unique(names).to_pylist()):
        mine = test.filter(pc.equal(names, name))
        p = [np.asarray(mine[c].to_numpy(), np.float64) for c in columns[3:]]
        out[name] = _sorted(integers(mine, "ts"), integers(mine, "instrument_id"), np.stack(p, axis=1))
    return out


def _splits(archive: Archive, run: str, model: str) -> dict[str, Split]:
    rows = archive.read(
        "scores", RunPartition(run), columns=["ts", "split"], filter=pc.field("model") == model
    )
    names = rows["split"].cast(pa.string())
    out = {}
    for name in ("train", "validation", "test"):
        ts = integers(rows.filter(pc.equal(names, name)), "ts")
        if len(ts):
            out[name] = Split(len(ts), int(ts.min()), int(ts.max()))
    return out


def _labels(archive: Archive, dataset: str, times: list[NDArray[np.int64]]) -> _Rows | None:
    """-1, 0, +1 by decision, from the first to the last of ``times``."""
    there = [ts for ts in times if len(ts)]
    days = partitions_of(archive, "labels", dataset)
    if not there or not days:
        return None
    first, last = min(int(ts.min()) for ts in there), max(int(ts.max()) for ts in there)
    kind = pa.timestamp("ns", tz="UTC")
    inside = (pc.field("ts") >= pa.scalar(first, kind)) & (pc.field("ts") <= pa.scalar(last, kind))
    rows = pa.concat_tables(
        [archive.read("labels", day, columns=["instrument_id", "ts", "label"], filter=inside) for day in days]
    )
    label = integers(rows, "label").astype(np.float64)
    return _sorted(integers(rows, "ts"), integers(rows, "instrument_id"), label[:, None])


def _sorted(ts: NDArray[np.int64], instrument: NDArray[np.int64], values: NDArray[np.float64]) -> _Rows:
    order = np.lexsort((instrument, ts))
    return _Rows(ts[order], instrument[order], values[order])


def _common(several: list[_Rows]) -> list[NDArray[np.int64]]:
    """For each of several sets of rows, the positions of the decisions that all of them hold."""
    times = np.unique(np.concatenate([rows.ts for rows in several]))
    ids = np.unique(np.concatenate([rows.instrument for rows in several]))
    keys = [
        np.searchsorted(times, rows.ts) * len(ids) + np.searchsorted(ids, rows.instrument) for rows in several
    ]
    everywhere = keys[0]
    for key in keys[1:]:
        everywhere = np.intersect1d(everywhere, key, assume_unique=True)
    return [np.searchsorted(key, everywhere) for key in keys]
