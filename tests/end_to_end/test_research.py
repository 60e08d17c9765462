"""`tickworks run` to its end: three Ray jobs on one Ray, their results, and what is left when stopped.

A session of some minutes: long enough to train on, too short to judge a model by.
"""

import json
import os
import signal
from pathlib import Path

import duckdb
import pytest

from tests.end_to_end.conftest import Run, Tickworks, processes_of, wait_until
from workloads.ticks.schema import DATASET_TABLES, RUN_TABLES

SESSION = ("--duration", "4m", "--until", "backtest")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Tickworks:
    """A finished run of all stages, under var/runs as a user has it."""
    home = Tickworks(tmp_path_factory.mktemp("research"))
    home.runs = home.folder / "var/runs"
    result = home.run(*SESSION)
    assert result.returncode == 0, result.stderr
    (home.folder / "stdout").write_text(result.stdout)
    return home


@pytest.fixture(scope="module")
def run(home: Tickworks) -> Run:
    return home.latest()


def test_every_stage_leaves_its_tables(run):
    assert {*DATASET_TABLES, *RUN_TABLES} <= set(run.archive.tables())
    assert run.archive.verify() == []


def test_three_jobs_ran_on_one_ray_and_nothing_of_it_is_left(run):
    assert sorted(path.stem for path in (run.folder / "jobs").glob("*.json")) == [
        "backtest",
        "features",
        "training",
    ]
    assert (run.folder / "jobs/ray").is_dir()  # its logs, brought here when it was stopped
    assert processes_of(run.folder) == []


def test_the_summary_names_the_time_of_each_stage_and_the_accuracy_of_each_model(home, run):
    summary = (home.folder / "stdout").read_text()
    for stage in ("feed", "features", "training", "backtest"):
        assert f"{stage} " in summary
        assert run.facts["seconds"][stage] > 0
    for model in ("vit", "logistic", "majority"):
        assert model in summary


def test_each_stage_worked_on_what_the_stage_before_it_made(run):
    research = run.facts["research"]
    results = {stage: research[stage]["result"] for stage in ("features", "training", "backtest")}
    assert research["skipped"] is None
    assert results["features"]["data_commit"]["id"] == run.facts["data_commit"]
    assert results["training"]["dataset"] == results["features"]["dataset"]
    assert results["backtest"]["training_run"] == results["training"]["run"]


def test_accuracies_are_those_of_the_tables(run):
    """Counted again with DuckDB: scores and labels are joined, purged rows are told by their ends."""
    training = run.facts["research"]["training"]["result"]
    scores, labels = run.table("scores"), run.table("labels")
    found = duckdb.sql(
        """
        SELECT model::VARCHAR, avg((CASE WHEN p_down >= p_flat AND p_down >= p_up THEN -1
                                         WHEN p_flat >= p_up THEN 0 ELSE 1 END = label)::INT)
        FROM scores JOIN labels USING (instrument_id, ts) WHERE split = 'test' GROUP BY 1
        """
    ).fetchall()
    assert scores.num_rows and labels.num_rows
    assert dict(found) == pytest.approx({m: a["test"] for m, a in training["accuracy"].items()})


def test_nothing_is_decided_before_the_test_period_and_no_fill_comes_before_its_order(run):
    period = run.facts["research"]["backtest"]["result"]["period"]
    orders, fills = run.table("orders"), run.table("fills")
    assert orders.num_rows and fills.num_rows
    early = duckdb.sql(
        f"""
        SELECT count(*) FROM fills JOIN orders USING (strategy, "order", instrument_id)
        WHERE ts_fill < ts_arrival OR ts_arrival <= ts_decision
           OR epoch_ns(ts_decision) < {period["start"]}
        """
    ).fetchall()
    assert early == [(0,)]


def test_the_backtest_of_a_report_comes_out_the_same(home, run):
    same = home("backtest", "reproduce", run.folder / "report.html", "--stage", "backtest")
    assert same.returncode == 0, same.stdout + same.stderr
    assert "bit for bit" in same.stderr


@pytest.mark.slow
def test_everything_of_a_report_comes_out_the_same(home, run):
    same = home("backtest", "reproduce", run.folder / "report.html")
    assert same.returncode == 0, same.stdout + same.stderr


def test_ctrl_c_while_training_keeps_what_was_done_and_leaves_a_report_and_no_process(tickworks):
    with tickworks.running(*SESSION) as process:
        wait_until("training", lambda: [r for r in tickworks.all_runs() if _began(r, "training")])
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=90)
    (run,) = tickworks.all_runs()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert run.table("mbo").num_rows
    assert run.archive.verify() == []
    assert run.facts["research"]["skipped"] == "training: interrupted"
    assert run.facts["research"]["features"]["result"]["labels"] == run.table("labels").num_rows
    assert (tickworks.latest().folder / "report.html").is_file()
    wait_until("the end of its processes", lambda: processes_of(run.folder) == [])


def test_a_stage_that_fails_leaves_the_ticks_a_report_and_its_reason(tickworks):
    """Training's folder for checkpoints can't be made: a file is in its place."""
    with tickworks.running(*SESSION) as process:
        run = wait_until("a run", lambda: next(iter(tickworks.all_runs()), None))
        (run.folder / "jobs").mkdir()
        (run.folder / "jobs/checkpoints").touch()
        stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 1
    assert stderr.rstrip().splitlines()[-1].startswith("Error: ")
    assert "Complete" in stdout and "research stopped: training: " in stdout
    assert run.facts["research"]["skipped"].startswith("training: ")
    assert (tickworks.latest().folder / "report.html").is_file()


def _began(run: Run, stage: str) -> bool:
    log = Path(run.folder / "jobs" / f"{stage}.json")
    return log.exists() and bool(json.loads(log.read_text()))
