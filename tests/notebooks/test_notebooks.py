"""The notebooks run on a fresh archive and say what is in it; committed outputs are whole and portable."""

import json
import re
from collections import Counter

import nbformat
import pytest

from notebooks.execute import execute, notebooks
from tests.notebooks.sample import BACKTEST, DATASET, TRAINING, sample

PROBES = {
    "ticks_duckdb": """{
        "stored": db.sql("SELECT tbl, sum(rows)::BIGINT FROM stored GROUP BY tbl").fetchall(),
        "complete": complete.fetchall(), "instruments": instruments.fetchall(), "symbol": symbol,
        "lots_by_minute": by_minute["lots"].to_pylist(), "spreads": spreads.fetchall(),
        "middle": middle.value, "instrument": instrument, "ladder": list(ladder.values()),
        "resting": resting.fetchall(), "again": again,
    }""",
    "research_polars": """{
        "names": [dataset, training, backtest], "cleaning": cleaning.rows(),
        "volatility": volatility.to_dicts(),
        "usable": usable.to_dicts(), "frame": frame.row(0), "quality": quality.to_dicts(),
        "calibration": calibration.to_dicts(), "trades": trades.to_dicts(), "final": final.to_dicts(),
    }""",
}
"""What a test asks each notebook at its end."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The archive, and the truth of its session."""
    return sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def runs(archive):
    """Each notebook after a run on that archive: its cells, and the answer to its probe."""
    out = {}
    for path in notebooks():
        notebook = nbformat.read(path, as_version=4)
        probe = f"import json\nprint(json.dumps({PROBES[path.stem]}))"
        notebook.cells.append(nbformat.v4.new_code_cell(probe))
        execute(notebook, archive[0].uri)
        (answer,) = notebook.cells.pop().outputs
        out[path.stem] = notebook.cells, json.loads(answer.text)
    return out


@pytest.fixture(scope="module")
def ticks(runs):
    return runs["ticks_duckdb"][1]


@pytest.fixture(scope="module")
def research(runs):
    return runs["research_polars"][1]


def test_a_fresh_run_gives_every_cell_the_kind_of_output_that_the_committed_one_has(runs):
    for path in notebooks():
        committed = nbformat.read(path, as_version=4).cells
        fresh = runs[path.stem][0]
        assert [kinds(cell) for cell in committed] == [kinds(cell) for cell in fresh], path.name


def kinds(cell) -> list[list[str]]:
    return [sorted(out.get("data", {out.output_type: ""})) for out in cell.get("outputs", [])]


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_the_committed_notebook_was_run_once_from_top_to_bottom_without_a_complaint(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [out for cell in code for out in cell.outputs]
    assert {out.output_type for out in outputs} <= {"execute_result", "stream"}
    assert {out.name for out in outputs if out.output_type == "stream"} <= {"stdout"}
    assert sum("image/svg+xml" in out.get("data", {}) for out in outputs) >= 2


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_the_committed_notebook_names_no_path_of_a_machine(path):
    assert not re.search(r"(?<![\w.</])/(home|root|tmp|work|usr|var|Users)/", path.read_text())


@pytest.mark.parametrize("name", [DATASET, TRAINING, BACKTEST])
def test_the_committed_outputs_are_those_of_a_run_and_not_of_this_tests_sample(name):
    assert not any(name in path.read_text() for path in notebooks())


def test_the_stored_rows_are_counted_by_the_log(ticks, archive):
    assert dict(ticks["stored"]) == {t: archive[0].dataset(t).count_rows() for t in archive[0].tables()}
    assert ticks["again"] == archive[0].dataset("trades").count_rows()


def test_the_sequence_is_told_complete_when_it_is(ticks, archive):
    ((_, first, last, packets, missing, only_b, only_a),) = ticks["complete"]
    assert (first, last, packets) == (1, archive[1].packets, archive[1].packets)
    assert (missing, only_a, only_b) == (0, 0, 0)


def test_volumes_and_spreads_are_those_of_the_session(ticks, archive):
    lots = {row[0]: row[5] for row in ticks["instruments"]}
    assert sorted(lots.values()) == sorted(archive[1].volume.tolist())
    assert sum(ticks["lots_by_minute"]) == lots[ticks["symbol"]] == max(lots.values())
    assert [row[1] for row in ticks["spreads"]] == [1.0] * 4  # the simulator's books are one tick wide


def test_the_drawn_book_is_the_one_that_the_orders_leave(ticks, archive):
    live = {}
    for row in archive[0].read("mbo").to_pylist():
        if row["ts_sent"].value <= ticks["middle"] and row["instrument_id"] == ticks["instrument"]:
            if row["action"] == 2:
                live.pop(row["order_id"])
            else:
                live[row["order_id"]] = row
    bids, asks = Counter(), Counter()
    for row in live.values():
        (bids if row["side"] == 1 else asks)[row["price"]] += row["size"]
    expected = [-bids[p] for p in sorted(bids)[-10:]] + [asks[p] for p in sorted(asks)[:10]]
    assert ticks["ladder"] == expected


def test_resting_times_count_each_order_once(ticks, archive):
    orders = Counter(archive[0].read("mbo")["order_id"].to_pylist())
    assert sum(deleted + left for _, deleted, left, *_ in ticks["resting"]) == len(orders)
    assert sum(left for _, _, left, *_ in ticks["resting"]) == len(archive[1].book)


def test_the_newest_dataset_and_runs_are_shown(research):
    assert research["names"] == [DATASET, TRAINING, BACKTEST]
    assert research["cleaning"] == [["mbo", "rows", 4000, 0, 0.0], ["mbo", "locked", 12, 0, 0.0]]


def test_usable_rows_and_labels_are_those_of_the_tables(research, archive):
    tensors, labels = (archive[0].read(name).to_pylist() for name in ("book_tensors", "labels"))
    assert sum(row["rows"] for row in research["usable"]) == len(tensors)
    assert sum(row["usable"] for row in research["usable"]) == sum(row["segment"] >= 0 for row in tensors)
    assert sum(row["labelled"] for row in research["usable"]) == len(labels)
    assert research["frame"] == ["bid", 1, 0.5, 2, 2, 1]  # the sample's frames are all alike
    assert sum(row["bars"] for row in research["volatility"]) == archive[0].dataset("bars").count_rows()


def test_accuracy_is_the_share_of_most_probable_labels_that_came_true(research, archive):
    label = {(row["instrument_id"], row["ts"]): row["label"] for row in archive[0].read("labels").to_pylist()}
    hits, rises = {}, 0
    for row in archive[0].read("scores").to_pylist():
        if (key := (row["instrument_id"], row["ts"])) in label:
            chances = [row["p_down"], row["p_flat"], row["p_up"]]
            hit = chances.index(max(chances)) - 1 == label[key]
            hits.setdefault((row["model"], row["split"]), []).append(hit)
            rises += row["model"] == "filter" and row["split"] == "test"
    found = {(row["model"], row["split"]): row for row in research["quality"]}
    assert found.keys() == hits.keys() and len(hits) == 6
    for key, values in hits.items():
        assert found[key]["forecasts"] == len(values)
        assert found[key]["accuracy"] == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert 0 < sum(row["n"] for row in research["calibration"]) <= rises


def test_costs_and_value_are_those_of_the_ledger(research, archive):
    last = archive[0].read("ledger").to_pylist()[-1]
    final, trades = research["final"][0], research["trades"][0]
    assert final["value"] == pytest.approx(last["value"] / 1e9, abs=0.01)
    assert final["spread_cost"] == trades["spread_paid"] == pytest.approx(last["spread_cost"] / 1e9)
    assert final["commission"] == trades["commission"] == 2.0 * trades["fills"]
    assert trades["too_early"] == 0
    assert final["before_costs"] == pytest.approx(final["value"] + final["spread_cost"] + final["commission"])
