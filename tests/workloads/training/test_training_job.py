"""The whole job on a small dataset, in this process."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from tests.workloads.training.market import stored, tables
from workloads.runtime.jobs import JobConfigError, config_json, events_to, parse_config
from workloads.ticks.archive import ArchiveError, DataCommit, MissingDataError, RunPartition
from workloads.training.errors import IncompleteDatasetError, TrainingDataError
from workloads.training.forecasters import load_model
from workloads.training.job import TrainingConfig, dataset_commit, prepared, read_panel, run
from workloads.training.samples import Split

LEVELS = 3
SMALL = TrainingConfig(
    archive="",
    dataset="book-1",
    window=16,
    levels=LEVELS,
    width=8,
    heads=2,
    hidden=16,
    epochs=3,
    batch=64,
    workers=0,
)


def results(archive, summary):
    """Checksums of all result files."""
    where = RunPartition(summary["run"])
    return {(t, f.stem): f.sha256 for t in ("models", "scores", "learning") for f in archive.files(t, where)}


@pytest.fixture(scope="module")
def market():
    books, labels, _ = tables(2500, instruments=2, levels=LEVELS, seed=5)
    return books, labels


@pytest.fixture(scope="module")
def ended(market, tmp_path_factory):
    archive, events = stored(tmp_path_factory.mktemp("archive"), *market), []
    with events_to(events.append):
        summary = run(archive, SMALL)
    return archive, summary, events


def test_every_row_with_a_full_window_is_scored_by_every_model(ended, market):
    archive, summary, _ = ended
    scores = archive.read("scores", RunPartition(summary["run"]))
    each = 2 * (2500 - 15)
    assert Counter(scores["model"].to_pylist()) == {"vit": each, "logistic": each, "majority": each}
    total = np.sum([scores[name].to_numpy() for name in ("p_down", "p_flat", "p_up")], axis=0)
    assert np.allclose(total, 1, atol=1e-12)
    assert set(scores["split"].to_pylist()) == {"train", "validation", "test"}


def test_splits_follow_each_other_in_time(ended):
    archive, summary, _ = ended
    scores = archive.read("scores", RunPartition(summary["run"]))
    ts, split = scores["ts"].cast(pa.int64()).to_numpy(), np.array(scores["split"].to_pylist())
    assert ts[split == "train"].max() < summary["periods"]["validation"] == ts[split == "validation"].min()
    assert ts[split == "validation"].max() < summary["periods"]["test"] == ts[split == "test"].min()


def test_the_summary_and_the_learning_curve_tell_the_same_story(ended):
    archive, summary, events = ended
    curve = archive.read("learning", RunPartition(summary["run"]))
    assert curve["epoch"].to_pylist() == [0, 1, 2, 3]
    best = min(range(4), key=curve["validation_loss"].to_pylist().__getitem__)
    assert summary["best_epoch"] == best
    accuracy = summary["accuracy"]["vit"]["validation"]
    assert curve["validation_accuracy"][best].as_py() == pytest.approx(accuracy)
    assert [e["done"] for e in events if e.get("stage") == "training"] == [0, 1, 2, 3]
    assert summary["accuracy"].keys() == {"vit", "logistic", "majority"}


def test_a_stored_model_makes_the_stored_scores(ended):
    archive, summary, _ = ended
    where = RunPartition(summary["run"])
    commit = dataset_commit(archive, "book-1")
    found = read_panel(archive, SMALL, commit)
    used = prepared(found, SMALL)[0]
    for row in archive.read("models", where).to_pylist():
        scores = archive.read("scores", where, filter=pa.compute.field("model") == row["model"])
        model = load_model(row["parameters"])
        again = model.probabilities(model.scaling(found.inputs_NF), used.scored)
        assert np.array_equal(again[:, 2], scores["p_up"].to_numpy())
        assert row["as_of"].value == found.end_N[np.r_[used.train, used.validation]].max()
        assert row["as_of"].value <= summary["periods"]["test"]


def test_the_same_data_gives_the_same_bits_wherever_it_lies(ended, market, tmp_path):
    archive, summary, _ = ended
    elsewhere = stored(tmp_path, *market)
    again = run(elsewhere, dataclasses.replace(SMALL, archive=str(tmp_path)))
    assert again["run"] == summary["run"]
    assert results(elsewhere, again) == results(archive, summary)


def test_what_the_test_period_holds_changes_no_fitted_model(ended, market, tmp_path):
    archive, summary, _ = ended
    books, labels = (changed_after(table, summary["periods"]["test"]) for table in market)
    other = stored(tmp_path, books, labels)
    again = run(other, SMALL)
    models, others = (
        a.read("models", RunPartition(s["run"]))["sha256"].to_pylist()
        for a, s in ((archive, summary), (other, again))
    )
    assert models == others
    assert again["accuracy"]["vit"]["validation"] == summary["accuracy"]["vit"]["validation"]
    assert again["accuracy"]["vit"]["test"] != summary["accuracy"]["vit"]["test"]


@pytest.mark.parametrize("part", [0.3, 0.7, 0.9])
def test_no_score_knows_what_comes_after_it(ended, market, part, tmp_path):
    archive, summary, _ = ended
    books, labels = market
    ts = books["ts"].cast(pa.int64()).to_numpy()
    since = int(np.sort(ts)[int(part * len(ts))])
    commit = dataset_commit(archive, "book-1")
    found = read_panel(archive, SMALL, commit)
    used = prepared(found, SMALL)[0]
    other = stored(tmp_path, changed_after(books, since), labels)
    later = read_panel(other, SMALL, dataset_commit(other, "book-1"))
    earlier = found.ts_N[used.scored] < since
    for row in archive.read("models", RunPartition(summary["run"])).to_pylist():
        model = load_model(row["parameters"])
        before, after = (model.probabilities(model.scaling(p.inputs_NF), used.scored) for p in (found, later))
        assert np.array_equal(before[earlier], after[earlier])
        assert model.name == "majority" or not np.array_equal(before[~earlier], after[~earlier])


def test_on_permuted_labels_no_model_is_better_than_the_majority(market, tmp_path):
    archive = stored(tmp_path, *market)
    summary = run(archive, dataclasses.replace(SMALL, permute_labels=True))
    chance = summary["loss"]["majority"]["test"]
    for model in ("vit", "logistic"):
        assert summary["loss"][model]["test"] > chance - 0.01
        assert summary["accuracy"][model]["test"] < 0.45
    honest = run(archive, SMALL)
    assert honest["loss"]["logistic"]["test"] < chance - 0.05, "or the test above could not fail"


def test_labels_that_tell_the_future_of_other_rows_are_purged(ended, market):
    archive, summary, _ = ended
    found = read_panel(archive, SMALL, dataset_commit(archive, "book-1"))
    used = prepared(found, SMALL)[0]
    for split, limit in ((Split.TRAIN, "validation"), (Split.VALIDATION, "test")):
        assert found.end_N[used[split]].max() <= summary["periods"][limit]


@pytest.mark.parametrize("steps", [12, 26, 27])
def test_too_little_data_is_said_and_nothing_is_stored(steps, tmp_path):
    books, labels, _ = tables(steps, levels=LEVELS)
    archive = stored(tmp_path, books, labels)
    summary = run(archive, SMALL)
    assert "longer session" in summary["skipped"]
    assert archive.partitions("models", RunPartition) == []


def test_a_market_that_never_moves_is_trained_on_and_forecast_flat(tmp_path):
    books, labels, _ = tables(300, levels=LEVELS)
    flat = labels.set_column(4, labels.schema.field("label"), pa.array(np.zeros(len(labels), np.int8)))
    summary = run(stored(tmp_path, books, flat), SMALL)
    assert summary["skipped"] is None
    assert {a["test"] for a in summary["accuracy"].values()} == {1.0}


def test_an_unknown_dataset_lists_the_known_ones(ended):
    archive, _, _ = ended
    with pytest.raises(MissingDataError, match="there is book-1"):
        run(archive, dataclasses.replace(SMALL, dataset="book-2"))


def test_a_dataset_that_is_not_whole_is_refused(market, tmp_path):
    archive = stored(tmp_path / "half", *market, parts=2)
    with pytest.raises(IncompleteDatasetError, match=r"1 of 2 channels and dates .* run features again"):
        run(archive, SMALL)
    whole = stored(tmp_path / "whole", *market)
    early = whole.data_commit(["book_tensors", "labels"])
    with pytest.raises(IncompleteDatasetError, match="none of its channels and dates is done"):
        run(whole, dataclasses.replace(SMALL, data_commit=early))


def test_a_data_commit_whose_id_is_not_that_of_its_entries_is_refused(ended):
    archive, summary, _ = ended
    given = DataCommit(**summary["data_commit"])
    assert run(archive, dataclasses.replace(SMALL, data_commit=given))["run"] == summary["run"]
    with pytest.raises(ArchiveError, match=f"data commit beef is not what .* which is {given.id}"):
        run(archive, dataclasses.replace(SMALL, data_commit=dataclasses.replace(given, id="beef")))


def test_a_config_survives_json_and_a_typo_does_not(ended):
    archive, _, _ = ended
    config = dataclasses.replace(SMALL, data_commit=dataset_commit(archive, "book-1"))
    assert parse_config(TrainingConfig, config_json(config), "test") == config
    with pytest.raises(Exception, match="epoch_count"):
        parse_config(TrainingConfig, '{"archive": "a", "dataset": "b", "epoch_count": 1}', "test")


def test_more_rows_than_memory_is_meant_to_hold_are_refused_unread(market, ended, tmp_path, monkeypatch):
    archive = stored(tmp_path, *market)
    exactly = dataclasses.replace(SMALL, max_rows=5000)
    assert run(archive, exactly)["run"] == ended[1]["run"], "the limit is no part of the run"
    monkeypatch.setattr(archive, "read", None)
    with pytest.raises(TrainingDataError, match=r"5,000 grid rows, more than max_rows \(4,999\); make one"):
        run(archive, dataclasses.replace(SMALL, max_rows=4999))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 0}, "stride must be at least 1, not 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch": -1}, "batch must be at least 1"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"workers": -1}, r"workers \(-1\) must not be negative"),
        ({"window": 63}, r"window \(63\) must be a multiple of patch \(4\)"),
        ({"heads": 3}, r"width \(32\) must be a multiple of heads \(3\)"),
        ({"batch": 3, "workers": 4}, "each of 4 workers a sample"),
        ({"train": 0.0}, "must be above 0"),
        ({"validation": 0.0}, "must be above 0"),
        ({"train": 0.8, "validation": 0.2}, "the rest is the test period"),
        ({"learning_rate": 0.0}, r"learning_rate \(0\) must be above 0"),
        ({"weight_decay": -1.0}, "not below it"),
        ({"name": "a/b"}, "may hold letters"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_anything_is_read(change, message):
    text = json.dumps({"archive": "a", "dataset": "b", **change})
    with pytest.raises(JobConfigError, match=f"here is no TrainingConfig: config: .*{message}") as refused:
        parse_config(TrainingConfig, text, "here")
    assert "\n" not in str(refused.value)


def changed_after(table, since):
    """The table with other numbers in every row whose time is ``since`` or later; times stay."""
    late = table["ts"].cast(pa.int64()).to_numpy() >= since
    draw = np.random.default_rng(9)
    out = table
    for place, field in enumerate(table.schema):
        if field.name in ("ofi", "bid_adds", "ask_adds", "bid_price"):
            values = table[field.name].to_numpy() - np.where(late, draw.integers(0, 9, len(late)), 0)
            out = out.set_column(place, field, pa.array(values, field.type))
        if field.name == "label":
            values = np.where(late, draw.integers(-1, 2, len(late)), table[field.name].to_numpy())
            out = out.set_column(place, field, pa.array(values.astype(np.int8)))
        if field.name == "frame":
            lists = table["frame"].combine_chunks()
            values = lists.flatten().to_numpy().reshape(len(late), -1).copy()
            values[late] += draw.random((late.sum(), 1), np.float32)
            column = pa.ListArray.from_arrays(lists.offsets, pa.array(values.reshape(-1)))
            out = out.set_column(place, field, column)
    return out
