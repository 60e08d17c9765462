"""What a run does with the folders of earlier ones, and with its own when it fails."""

import fcntl
import re
from pathlib import Path

import pytest

from operations import main_job
from operations.console import stderr
from operations.main_job import finish_interrupted
from workloads.errors import WorkloadError
from workloads.ingest.job import IngestConfig
from workloads.runtime.jobs import config_json


def interrupted(runs: Path, name: str, config: str | None = None) -> Path:
    """A run with a segment in its spool, and no state to read it with."""
    folder = runs / name
    (folder / "spool").mkdir(parents=True)
    (folder / "spool" / "00000001.spool").write_bytes(b"not whole")
    (folder / "ingest.json").write_text(config or config_json(IngestConfig()))
    return folder


def warned(runs: Path) -> list[str]:
    """Lines that finishing the runs in this folder writes to stderr."""
    with stderr.capture() as captured:
        finish_interrupted(runs)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in captured.get().splitlines()]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "holds spool segment 1 but no state"),
        ('{"of_another_version": 1}', "is no IngestConfig: of_another_version"),
        ("\0 damaged", "is no IngestConfig"),
    ],
    ids=["no state", "config of another version", "damaged config"],
)
def test_a_run_that_cannot_be_finished_is_told_in_one_sentence_and_blocks_nothing(tmp_path, config, why):
    folder = interrupted(tmp_path, "20260101T000000", config)
    (line,) = warned(tmp_path)
    assert line.startswith("the interrupted run 20260101T000000 is not finished: ")
    assert why in line
    assert f"move {folder} out of {tmp_path}" in line
    assert (folder / "spool" / "00000001.spool").exists()


def test_the_runs_behind_a_broken_one_are_finished(tmp_path, monkeypatch):
    broken, good = (interrupted(tmp_path, name) for name in ("20260101T000000", "20260102T000000"))

    def finish(folder: Path) -> int:
        if folder == broken:
            raise WorkloadError("its spool is damaged")
        return 5

    monkeypatch.setattr(main_job, "_finish", finish)
    first, *others = warned(tmp_path)
    assert "its spool is damaged" in first
    assert f"finished the interrupted run {good.name}: 5 packets" in " ".join(others)


def test_a_run_that_another_command_takes_at_the_same_time_is_left_to_it(tmp_path, monkeypatch):
    """Taken between the look whether somebody has it and the attempt to finish it."""
    folder = interrupted(tmp_path, "20260101T000000")
    finish = main_job._finish
    with (folder / "spool" / "lock").open("w") as lock:

        def taken(folder: Path) -> int:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return finish(folder)

        monkeypatch.setattr(main_job, "_finish", taken)
        (line,) = warned(tmp_path)
    assert "another ingest uses the spool folder" in line
    assert "another command works on it" in line
    assert "move" not in line
