"""`tickworks submit`: what is submitted, and what its user sees of it."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from environments.errors import ConfigError
from operations.progress import JobProgress
from operations.submit import JOBS, Registered, job_spec, submit, summary
from workloads.runtime.jobs import JobConfigError

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # of Ray's own client

JOB = """
from dataclasses import dataclass
from typing import ClassVar
from pydantic import ConfigDict
from workloads.errors import WorkloadError
from workloads.runtime.jobs import emit, job_main

@dataclass(frozen=True)
class SmallConfig:
    archive: str
    name: str = "small"
    seed: int = 7
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

def run(config):
    if config.seed < 0:
        raise WorkloadError("a seed is not negative; choose another")
    emit("progress", stage="days", done=1, total=2, unit="days", loss=0.5)
    emit("progress", stage="days", done=2, total=2, unit="days", loss=0.25)
    emit("done", run=config.name, rows={"bars": 1234567}, seed=config.seed)

def main():
    job_main(SmallConfig, run, __doc__)
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registered job, called features."""
    name = f"job_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(JOBS, "features", Registered(name, f"{name}:SmallConfig", "small"))
    yield name
    sys.modules.pop(name, None)


def call(*arguments: str):
    return CliRunner().invoke(submit, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", JOBS)
def test_every_registered_job_has_a_config_and_a_main(name):
    where, _, config = JOBS[name].config.partition(":")
    assert "archive" in getattr(import_module(where), config).__dataclass_fields__
    assert callable(import_module(JOBS[name].module).main)


def test_help_names_every_job_with_what_it_does():
    text = " ".join(call("--help").stdout.split())
    for name, job in JOBS.items():
        assert f"{name} {job.help}" in text


def test_a_dry_run_prints_the_whole_spec_and_starts_nothing(small, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = call("features", "--dry-run", "--set", "seed=8", "--set", "name=310")
    spec = json.loads(result.stdout)
    assert spec["module"] == small
    assert spec["config"] == {"archive": str(tmp_path / "var/archive"), "name": "310", "seed": 8}
    assert spec["metadata"]["seed"] == "8"
    assert not (tmp_path / "var").exists()


def test_options_overrule_the_file_and_the_file_the_environment(small, tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"archive": "s3://bucket/ticks", "seed": 1}')
    read = json.loads(job_spec("features", "local", path, {"seed": "2"}).config)
    assert (read["archive"], read["seed"]) == ("s3://bucket/ticks", 2)
    assert json.loads(job_spec("features", "local", path, {"archive": "/a"}).config)["archive"] == "/a"


def test_an_environment_without_a_place_for_jobs_is_one_clear_error(small):
    with pytest.raises(ConfigError, match=r"no cluster to submit to yet in dev.*use --env local"):
        job_spec("features", "dev", None, {})
    result = call("features", "--env", "dev")
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_config_that_cannot_be_used_is_told_before_anything_starts(small, tmp_path):
    with pytest.raises(JobConfigError, match="the command line is no SmallConfig: cuont"):
        job_spec("features", "local", None, {"cuont": "3"})
    result = call("features", "--config", tmp_path / "nowhere.json")
    assert result.exit_code == 1
    assert "nowhere.json" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [["--set", "seed"], ["--set", "=3"], ["--deadline", "0"]])
def test_wrong_usage_is_status_2(small, words):
    assert call("features", *words).exit_code == 2
    assert call("nothing").exit_code == 2


def test_a_job_runs_where_another_ray_runs_and_its_result_is_printed(small, local_ray, tmp_path):
    folder = tmp_path / "out"
    common = ("features", "--archive", tmp_path, "--ray", local_ray.folder, "--folder", folder)
    result = call(*common)
    assert result.exit_code == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["run", "small"],
        ["rows.bars", "1,234,567"],
        ["seed", "7"],
    ]
    assert "features: days" in result.stderr
    assert json.loads((folder / "features.result.json").read_text())["rows"] == {"bars": 1234567}
    failed = call(*common, "--set", "seed=-1", "--json")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1] == "Error: a seed is not negative; choose another"


@pytest.mark.slow
def test_a_job_gets_a_ray_of_its_own(small, tmp_path):
    result = call("features", "--archive", tmp_path, "--folder", tmp_path / "out", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["run"] == "small"
    assert not (tmp_path / "out" / "ray.json").exists()


def test_a_ray_that_is_gone_is_told(small, tmp_path):
    result = call("features", "--ray", tmp_path)
    assert result.exit_code == 1
    assert "leads to no running Ray" in result.stderr


def test_a_result_is_told_in_lines_whatever_it_holds():
    done = {"event": "done", "a": 1, "b": {"c": 0.123456789, "d": {}}, "e": [1, 2], "f": [{"g": "x" * 99}]}
    assert summary(done).splitlines() == ["a    1", "b.c  0.123457", "e    [1, 2]", "f    1 entries"]
    assert summary({"event": "done"}) == ""


def test_progress_without_a_terminal_is_one_line_a_stage(capsys):
    with JobProgress("training") as progress:
        for done in (1, 2):
            progress.seen(
                {"event": "progress", "stage": "epochs", "done": done, "total": 2, "unit": "epochs"}
            )
        progress.seen({"event": "progress", "stage": "scores", "done": 1, "total": None})
        progress.seen({"event": "retry", "message": "it died"})
        progress.seen({"event": "done"})
    assert capsys.readouterr().err.splitlines() == [
        "training: epochs",
        "training: scores",
        "training: tried again; it died",
    ]
