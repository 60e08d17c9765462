"""`tickworks backtest`: the statistics of a run, and its repetition bit for bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from operations.main import main
from operations.report.record import ELEMENT, embedded
from operations.reproduction import compare_numbers, recorded
from tests.workloads.backtest import market
from workloads.backtest.config import BacktestConfig
from workloads.backtest.job import run
from workloads.runtime.jobs import config_json, events_to
from workloads.ticks.archive import code_version
from workloads.ticks.commits import DataCommit

STAMP = "20260105T143000"


def tickworks(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["backtest", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run whose dataset and scores are generated, and whose backtest is real."""
    folder = tmp_path_factory.mktemp("runs") / STAMP
    archive = market.write(str(folder / "archive"), [market.path(seconds=200)])
    data = archive.data_commit()
    dataset = archive.data_commit(["book_tensors", "labels"])
    config = BacktestConfig(
        archive="/moved/away", dataset=market.DATASET, scores_run=market.RUN, strategies=("vit", "flow")
    )
    with events_to(lambda event: None):
        result = run(archive, config)
    research = {
        "features": {"config": {"archive": "/moved/away"}, "result": _told(data, dataset=market.DATASET)},
        "training": {
            "config": {"archive": "/moved/away"},
            "result": _told(dataset, dataset=market.DATASET, run=market.RUN),
        },
        "backtest": {"config": json.loads(config_json(config)), "result": result},
        "skipped": None,
    }
    told = {"name": STAMP, "version": code_version(), "research": research}
    (folder / "run.json").write_text(json.dumps(told))
    record = f'<script type="application/json" id="{ELEMENT}">{embedded(told)}</script>'
    (folder / "report.html").write_text(record)
    return folder


def _told(data: DataCommit, **others: str) -> dict[str, object]:
    return {"data_commit": {"id": data.id, "entries": dict(data.entries)}, **others}


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / STAMP))


def test_show_prints_a_column_for_each_strategy(finished: Path):
    shown = tickworks("show", finished / "report.html")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    told = recorded(finished).result("backtest")["strategies"]
    assert lines[3].split() == ["vit", "flow"]
    assert lines[4].split() == ["profit", *(f"{told[name]['pnl']:,.2f}" for name in ("vit", "flow"))]
    assert "capital" in lines[1] and "USD" in lines[1]


def test_a_report_that_was_passed_around_is_enough(finished: Path, tmp_path: Path):
    alone = Path(shutil.copy(finished / "report.html", tmp_path))
    assert recorded(alone).run == recorded(finished).run
    same = tickworks("reproduce", alone, "--stage", "backtest", "--archive", finished / "archive")
    assert same.exit_code == 0, same.output


def test_show_json_is_the_whole_result(finished: Path):
    shown = tickworks("show", finished, "--json")
    assert json.loads(shown.stdout) == recorded(finished).result("backtest")


def test_show_finds_a_backtest_by_its_id(finished: Path, tmp_path: Path, monkeypatch):
    shutil.copytree(finished, tmp_path / "var/runs" / STAMP)
    monkeypatch.chdir(tmp_path)
    run_id = recorded(finished).result("backtest")["run"]
    assert run_id in tickworks("show", run_id).stdout
    unknown = tickworks("show", "backtest-0")
    assert unknown.exit_code == 1 and "no run in var/runs has a backtest backtest-0" in unknown.stderr


@pytest.mark.parametrize("command", ["show", "reproduce"])
def test_a_folder_without_a_run_is_told(tmp_path: Path, command: str):
    found = tickworks(command, tmp_path / "report.html")
    assert found.exit_code == 1 and "holds no record of a run" in found.stderr


def test_a_run_without_research_is_told(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")
    assert "records no research stages" in tickworks("reproduce", tmp_path).stderr


def test_a_skipped_backtest_is_told_with_the_reason(tmp_path: Path):
    told = {"research": {"features": {"config": {}, "result": {}}, "skipped": "training: too few rows"}}
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert "has no backtest (training: too few rows)" in tickworks("show", tmp_path).stderr


def test_a_run_comes_out_the_same_bit_for_bit(finished: Path, tmp_path: Path):
    before = sorted(p.relative_to(finished) for p in finished.rglob("*"))
    made = tickworks(
        "reproduce", finished / "report.html", "--stage", "backtest", "--scratch", tmp_path / "s"
    )
    assert made.exit_code == 0, made.output
    for table in ("orders", "fills", "ledger", "result"):
        line = next(line for line in made.stdout.splitlines() if line.split()[:2] == ["backtest", table])
        assert line.endswith("equal")
    assert "the same, bit for bit" in made.stderr
    assert sorted(p.relative_to(finished) for p in finished.rglob("*")) == before


def test_a_result_that_was_changed_is_found(copy: Path, tmp_path: Path):
    path = copy / "run.json"
    told = json.loads(path.read_text())
    told["research"]["backtest"]["result"]["strategies"]["vit"]["pnl"] += 1e-9
    told["version"] = "0.0.1"
    path.write_text(json.dumps(told))
    made = tickworks("reproduce", copy, "--stage", "backtest", "--scratch", tmp_path / "s")
    assert made.exit_code == 3
    assert "backtest result: strategies.vit.pnl:" in made.stdout
    assert "made by version 0.0.1" in made.stderr
    assert str(tmp_path / "s") in made.stderr


def test_a_scratch_folder_in_use_is_refused(finished: Path, tmp_path: Path):
    (tmp_path / "mine").touch()
    found = tickworks("reproduce", finished, "--scratch", tmp_path)
    assert found.exit_code == 1 and "is not empty" in found.stderr
    assert (tmp_path / "mine").exists()


def test_numbers_are_compared_to_the_last_bit_and_the_reruns_own_time_is_not():
    first = {"seconds": 1.0, "a": {"b": [0.1, float("nan")]}, "gone": 1}
    again = {"seconds": 2.0, "a": {"b": [np.nextafter(0.1, 1), float("nan")]}, "new": 2}
    row = compare_numbers("training", first, again)
    assert [d.split(":")[0] for d in row.differences] == ["a.b[0]", "gone", "new"]
