"""Jobs as processes: whatever one does, the caller gets one clear error and no process stays behind."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from operations import jobs
from operations.jobs import JobFailedError, JobProcess


@dataclass(frozen=True)
class Config:
    """What a job of these tests is given."""

    text: str = "hello"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Start a program as the job `helper`."""

    def start(program: str) -> JobProcess:
        (tmp_path / "helper_job.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return JobProcess("helper", "helper_job", Config(), tmp_path)

    return start


def ended(pid: int) -> bool:
    """Whether no process has this id any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


READY = """
import json, sys
def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
emit("ready", config=open(sys.argv[2]).read())
"""
ECHO = READY + "for line in sys.stdin: emit('echo', line=line.strip())\nemit('done')\n"


def test_events_come_in_order_and_the_config_is_kept_beside_the_log(start, tmp_path):
    seen = []
    with start(ECHO) as job:
        ready = job.wait_for("ready")
        job.say("one")
        job.say("two")
        job.close_stdin()
        assert job.wait_for("done", seen.append)["event"] == "done"
    assert [event.get("line") for event in seen] == ["one", "two", None]
    assert ready["config"] == (tmp_path / "helper.json").read_text()
    assert '"hello"' in ready["config"]


def test_a_job_that_dies_is_told_with_its_status_last_words_and_log(start, tmp_path):
    program = "import sys; sys.stderr.write('first\\nlast words\\n'); sys.exit(3)"
    with (
        pytest.raises(JobFailedError, match="helper ended with status 3 before 'ready': last words") as error,
        start(program) as job,
    ):
        job.wait_for("ready")
    assert str(tmp_path / "helper.log") in str(error.value)


def test_a_job_that_says_nothing_at_all_is_told_too(start):
    with (
        pytest.raises(JobFailedError, match="ended with status 0 before 'ready': it wrote nothing"),
        start("") as job,
    ):
        job.wait_for("ready")


def test_a_killed_job_is_told_with_the_signal(start):
    with (
        pytest.raises(JobFailedError, match="was killed by signal 9 before 'done'"),
        start(READY + "import os; os.kill(os.getpid(), 9)") as job,
    ):
        job.wait_for("ready")
        job.wait_for("done")


def test_the_jobs_own_error_is_the_message(start):
    program = READY + "emit('error', error='X', message='no space left on /mnt; free some'); sys.exit(1)"
    with pytest.raises(JobFailedError) as error, start(program) as job:
        job.wait_for("done")
    assert str(error.value) == "no space left on /mnt; free some"


def test_garbage_on_stdout_hides_no_event_and_goes_to_the_log(start, tmp_path):
    garbage = """
sys.stdout.buffer.write(b'{broken\\n\\xff\\xfe no text\\n[1, 2]\\n"event"\\n{"no": "event"}\\nnull\\n\\n')
sys.stdout.flush()
emit("done")
"""
    with start(READY + garbage) as job:
        assert job.wait_for("done") == {"event": "done"}
    log = (tmp_path / "helper.log").read_text()
    assert "{broken" in log
    assert "no text" in log


def test_a_job_that_prints_garbage_and_dies_is_told(start):
    with (
        pytest.raises(JobFailedError, match="ended with status 5 before 'ready'"),
        start("print('{{{', flush=True); raise SystemExit(5)") as job,
    ):
        job.wait_for("ready")


def test_telling_something_to_a_dead_job_is_no_error_of_its_own(start):
    with start("") as job:
        with pytest.raises(JobFailedError):
            job.wait_for("ready")
        job.say("go")
        job.say("go")


def test_a_job_that_follows_its_stdin_ends_when_the_caller_goes_on(start):
    with start(ECHO) as job:
        pid = job.wait_for("ready") and job._process.pid
    assert ended(pid)


def test_a_job_that_never_gets_ready_ends_when_the_caller_gives_up(start):
    job = start("import time; time.sleep(600)")
    with pytest.raises(KeyboardInterrupt), job:
        raise KeyboardInterrupt
    assert ended(job._process.pid)


def test_a_job_that_ignores_everything_is_killed(start, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.2)
    stubborn = READY + "import signal, time; signal.signal(15, signal.SIG_IGN); emit('deaf'); time.sleep(600)"
    job = start(stubborn)
    with pytest.raises(KeyboardInterrupt), job:
        job.wait_for("deaf")
        raise KeyboardInterrupt
    assert ended(job._process.pid)


def test_a_job_gets_no_signal_of_the_terminal(start):
    with start(ECHO) as job:
        job.wait_for("ready")
        assert os.getsid(job._process.pid) != os.getsid(0)


def test_events_that_come_before_they_are_waited_for_are_kept(start):
    with start(READY + "emit('a'); emit('b'); emit('c')") as job:
        while job._process.poll() is None:
            time.sleep(0.01)
        assert [job.wait_for(name)["event"] for name in "abc"] == ["a", "b", "c"]
