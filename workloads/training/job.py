"""Fit a vision transformer and its baselines to a dataset's books, and store models, scores, learning curve.

Windows of `book_tensors` are the inputs, `labels` the truth. Time is split into training, validation and
test period; a label that ends after its period's end is used in none. Same config, seed and data commit:
same rows in every table, also when a worker died on the way.
"""

# ruff: noqa: N806
# Axes: N row, M outcome

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workloads.runtime.jobs import emit, job_main
from workloads.ticks.archive import (
    Archive,
    DataCommit,
    DatasetPartition,
    MissingDataError,
    RunPartition,
    open_archive,
)
from workloads.ticks.archive import code_version as installed_version
from workloads.ticks.datasets import LAST_TABLE, missing_parts
from workloads.ticks.schema import LEARNING, MODELS, SCORES
from workloads.training.baselines import logistic, majority
from workloads.training.config import TrainingConfig
from workloads.training.errors import IncompleteDatasetError, NothingToTrainError, TrainingDataError
from workloads.training.forecasters import Forecaster, VitForecaster
from workloads.training.loop import Alone, Epoch, Learner, Plan, Samples, Trained, trained
from workloads.training.samples import (
    CHANNELS,
    LABEL_COLUMNS,
    PANEL_COLUMNS,
    SIDES,
    STEPS,
    Panel,
    Periods,
    Rows,
    Scaling,
    Split,
    fitted_scaling,
    panel,
    periods,
    rows,
)
from workloads.training.scoring import accuracy, log_loss
from workloads.training.vit import VitShape

INPUTS = (LAST_TABLE, "book_tensors", "labels")
"""Of which a data commit is made, in this order: then the tables that are read are as whole as it says."""
ROW_BYTES = 2_300
"""Of memory at the peak, for each grid row of 10 levels: measured."""
Floats = NDArray[np.float64]


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 2)
        self._last = now


def run(archive: Archive, config: TrainingConfig) -> dict[str, Any]:
    """Train, score and store; returns the job's result summary.

    Where the dataset is too small to fit anything, nothing is stored and ``skipped`` says why.
    """
    clock = _Clock()
    given = config.data_commit
    commit = archive.checked(given) if given else dataset_commit(archive, config.dataset)
    check_whole(archive, config.dataset, commit)
    check_rows(archive, config, commit)
    run_id = run_name(config, commit)
    summary: dict[str, Any] = {
        "run": run_id,
        "dataset": config.dataset,
        "data_commit": {"id": commit.id, "entries": dict(commit.entries)},
        "seed": config.seed,
        "device": "cpu",
        "workers": config.workers,
        "skipped": None,
    }
    try:
        found = read_panel(archive, config, commit)
        used, sampled, scaling, bounds = prepared(found, config)
        clock.stop("read")
        baselines: list[Forecaster] = [majority(sampled, scaling), logistic(sampled, scaling, config.window)]
        _progress("baselines", 1, 1, "fit")
        clock.stop("baselines")
        learned, restarts = _learn(config, commit, run_id, sampled)
    except NothingToTrainError as error:
        return summary | {"skipped": str(error)}
    clock.stop("training")
    forecasters: list[Forecaster] = [VitForecaster(learned.model, scaling), *baselines]
    scores = {}
    for number, forecaster in enumerate(forecasters, start=1):
        scores[forecaster.name] = forecaster.probabilities(sampled.inputs_NF, used.scored)
        _progress("scores", number, len(forecasters), "models")
    clock.stop("scores")
    _store(archive, config, commit, run_id, found, used, forecasters, scores, learned.curve, bounds)
    clock.stop("store")
    accuracies, losses = _quality(found, used, scores)
    return summary | {
        "samples": {split.name.lower(): len(used[split]) for split in Split},
        "scored": len(used.scored),
        "periods": {"validation": bounds.validation, "test": bounds.test},
        "epochs": len(learned.curve) - 1,
        "best_epoch": learned.best_epoch,
        "restarts": restarts,
        "seconds": clock.seconds,
        "accuracy": accuracies,
        "loss": losses,
    }


def dataset_commit(archive: Archive, dataset: str) -> DataCommit:
    """The state of a dataset's tables now."""
    logs = {
        f"{table}/{partition.path}": archive.log(table, partition)
        for table in INPUTS
        for partition in archive.partitions(table, DatasetPartition)
        if partition.dataset == dataset
    }
    if not logs:
        there = sorted({p.dataset for p in archive.partitions("book_tensors", DatasetPartition)})
        raise MissingDataError(
            f"no dataset {dataset} under {archive.uri}; there is {', '.join(there) or 'none'}; "
            "make one with the features job"
        )
    return DataCommit.of(logs)


def check_whole(archive: Archive, dataset: str, commit: DataCommit) -> None:
    """Refuse a dataset that some of its channels or dates are missing of, as of a data commit."""
    if missing := missing_parts(archive, dataset, commit):
        raise IncompleteDatasetError(
            f"dataset {dataset} is incomplete: {missing} at data commit {commit.id}; run features again with "
            "the same config (tickworks submit features), which makes what is missing"
        )


def check_rows(archive: Archive, config: TrainingConfig, commit: DataCommit) -> None:
    """Refuse a dataset that memory may not hold; the logs say how many rows it has."""
    rows = sum(
        file.rows
        for partition in _stored(archive, "book_tensors", config.dataset, commit)
        for file in archive.files("book_tensors", partition, commit)
    )
    if rows > config.max_rows:
        raise TrainingDataError(
            f"dataset {config.dataset} has {rows:,} grid rows, more than max_rows ({config.max_rows:,}); "
            "make one of fewer dates or a longer step (dates, step_ns of the features job), or set max_rows "
            f"higher where there is memory: about {rows * ROW_BYTES / 1e9:.1f} GB"
        )


def run_name(config: TrainingConfig, commit: DataCommit) -> str:
    """``vit-7d20b1e5``: by everything that decides the results, and nothing else."""
    content = json.dumps([_settings(config), commit.id, installed_version()], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def read_panel(archive: Archive, config: TrainingConfig, commit: DataCommit) -> Panel:
    """The dataset's rows as of a data commit."""
    tables = {}
    for table, columns in (("book_tensors", [*PANEL_COLUMNS, "date"]), ("labels", LABEL_COLUMNS)):
        parts = [
            archive.read(table, partition, columns=columns, at=commit)
            for partition in _stored(archive, table, config.dataset, commit)
        ]
        if not parts:
            raise NothingToTrainError(
                f"dataset {config.dataset} has no {table}: no stretch of clean books was long enough; "
                "record a longer session"
            )
        tables[table] = pa.concat_tables(parts)
    return panel(tables["book_tensors"], tables["labels"], config.levels)


def _stored(archive: Archive, table: str, dataset: str, commit: DataCommit) -> list[DatasetPartition]:
    """A dataset's partitions that a data commit names."""
    return [
        partition
        for partition in archive.partitions(table, DatasetPartition)
        if partition.dataset == dataset and f"{table}/{partition.path}" in commit.entries
    ]


def prepared(panel: Panel, config: TrainingConfig) -> tuple[Rows, Samples, Scaling, Periods]:
    """Rows by use, samples to fit on, and the scaling and periods that they were made with."""
    scored = panel.windowed(config.window)
    labelled = scored[panel.label_N[scored] >= 0]
    bounds = periods(panel.ts_N[labelled], config.train, config.validation)
    used = rows(panel, bounds, config.window)
    if not len(used.train):
        raise NothingToTrainError(
            "no training sample has its label before validation begins; record a longer session"
        )
    scaling = fitted_scaling(panel, bounds)
    label_N = panel.label_N
    if config.permute_labels:
        label_N = label_N.copy()
        draw = np.random.default_rng([config.seed, 0x5EED])
        for part in (used.train, used.validation):
            label_N[part] = draw.permutation(label_N[part])
    sampled = Samples(scaling(panel.inputs_NF), label_N, used.train, used.validation)
    return used, sampled, scaling, bounds


def plan_of(config: TrainingConfig) -> Plan:
    """What the loop needs of the config."""
    shape = VitShape(
        window=config.window,
        frame=SIDES * config.levels * CHANNELS,
        steps=len(STEPS),
        stem=config.stem,
        patch=config.patch,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        hidden=config.hidden,
    )
    return Plan(
        shape=shape,
        levels=config.levels,
        seed=config.seed,
        epochs=config.epochs,
        batch=config.batch,
        stride=config.stride,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )


def _learn(config: TrainingConfig, commit: DataCommit, run_id: str, samples: Samples) -> tuple[Trained, int]:
    plan = plan_of(config)
    identity = {"run": run_id, "data_commit": commit.id}
    if config.workers == 0:
        learner = Learner(plan, samples, Alone(), identity)
        learner.learn(lambda learner: _epoch_progress(plan, learner.curve[-1]._asdict()))
        return trained(learner.state(), plan.shape), 0
    Learner.check(plan, samples, config.workers)
    from workloads.training import ray_backend  # Ray takes seconds to import; local mode does without

    def hear(news: Mapping[str, Any]) -> None:
        if "epoch" in news:
            _epoch_progress(plan, news)
        else:
            _progress("workers", news["rank"] + 1, config.workers, "workers", pid=news["pid"])

    with tempfile.TemporaryDirectory(prefix="tickworks-training-") as temporary:
        folder = Path(config.checkpoints or temporary) / run_id
        folder.mkdir(parents=True, exist_ok=True)
        state, restarts = ray_backend.learn(plan, samples, identity, config.workers, folder, hear)
        ray_backend.clear(folder)
    return trained(state, plan.shape), restarts


def _store(
    archive: Archive,
    config: TrainingConfig,
    commit: DataCommit,
    run_id: str,
    found: Panel,
    used: Rows,
    forecasters: list[Forecaster],
    scores: Mapping[str, Floats],
    curve: list[Epoch],
    bounds: Periods,
) -> None:
    """One file a model in ``scores``; one of all in ``models`` and ``learning``. Safe to repeat."""
    partition = RunPartition(run_id)
    source = {"dataset": config.dataset, "data_commit": commit.id}
    fitted = np.concatenate([used.train, used.validation])
    parameters = [forecaster.parameters() for forecaster in forecasters]
    n = len(forecasters)
    models = {
        "model": [forecaster.name for forecaster in forecasters],
        "as_of": [int(found.end_N[fitted].max())] * n,
        "config": [json.dumps(_settings(config), sort_keys=True)] * n,
        "inputs": [commit.to_json()] * n,
        "code": [installed_version()] * n,
        "seed": [config.seed] * n,
        "parameters": parameters,
        "sha256": [hashlib.sha256(data).hexdigest() for data in parameters],
    }
    archive.commit("models", partition, {"models": _table(models, MODELS.arrow)}, source=source)
    ts, instrument = found.ts_N[used.scored], found.instrument_N[used.scored]
    names = pa.array([split.name.lower() for split in Split])
    split = pa.DictionaryArray.from_arrays(pa.array(bounds.split(ts), pa.int32()), names)
    files = {}
    for name, probability_NM in scores.items():
        same = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(ts), np.int32)), pa.array([name]))
        columns = {"model": same, "instrument_id": instrument, "ts": ts, "split": split}
        for place, outcome in enumerate(("p_down", "p_flat", "p_up")):
            columns[outcome] = np.ascontiguousarray(probability_NM[:, place])
        files[name] = _table(columns, SCORES.arrow)
    archive.commit("scores", partition, files, source=source)
    learning = {"model": [forecasters[0].name] * len(curve)}
    learning |= {name: [getattr(epoch, name) for epoch in curve] for name in Epoch._fields}
    archive.commit("learning", partition, {"learning": _table(learning, LEARNING.arrow)}, source=source)


def _quality(
    found: Panel, used: Rows, scores: Mapping[str, Floats]
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, float | None]]]:
    """Accuracy and log loss by model and split; None where a split has no label."""
    accuracies: dict[str, dict[str, float | None]] = {}
    losses: dict[str, dict[str, float | None]] = {}
    for name, probability_NM in scores.items():
        accuracies[name], losses[name] = {}, {}
        for split in Split:
            part = used[split]
            chosen = probability_NM[np.searchsorted(used.scored, part)]
            truth = found.label_N[part].astype(np.int64)
            known = len(part) > 0
            accuracies[name][split.name.lower()] = accuracy(chosen, truth) if known else None
            losses[name][split.name.lower()] = log_loss(chosen, truth) if known else None
    return accuracies, losses


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """The config without what doesn't decide the results (places, the limit) and without the data commit,
    which is kept beside it."""
    others = ("archive", "checkpoints", "data_commit", "max_rows")
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in others}


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        values = columns[field.name]
        array = values if isinstance(values, pa.Array) else pa.array(values)
        arrays.append(array.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _epoch_progress(plan: Plan, epoch: Mapping[str, Any]) -> None:
    """``loss``: of training, and of validation before the first epoch."""
    loss = epoch.get("loss", epoch.get("train_loss"))
    loss = epoch["validation_loss"] if loss is None else loss
    _progress("training", epoch["epoch"], plan.epochs, "epochs", loss=loss)


def _progress(stage: str, done: int, total: int | None, unit: str, **extra: Any) -> None:
    emit("progress", stage=stage, done=done, total=total, unit=unit, **extra)


def main() -> None:
    """``python -m workloads.training.job --config FILE``"""

    def job(config: TrainingConfig) -> None:
        emit("ready")
        emit("done", **run(open_archive(config.archive), config))

    job_main(TrainingConfig, job, __doc__)


if __name__ == "__main__":
    main()
