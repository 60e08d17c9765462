"""Jobs described once and run as plain processes: what they get, what they say, how they end."""

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from workloads.runtime.jobs import Event
from workloads.runtime.submit import THREADS, JobFailedError, JobSpec, Lines, ProcessJobs, SubmitError

JOB = """
import json, os, sys, time
from pathlib import Path
def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
def main():
    config = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
"""


@dataclass(frozen=True)
class Config:
    """What a job of these tests is given."""

    text: str = "hello"


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A spec of a job with this body."""

    def spec(body: str, **others: object) -> JobSpec:
        lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
        (tmp_path / "small_job.py").write_text(JOB + lines + "\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        return JobSpec.of("small", "small_job", Config(), **others)

    return spec


@pytest.fixture
def jobs(tmp_path: Path) -> ProcessJobs:
    return ProcessJobs(tmp_path / "run")


def ended(pid: int) -> bool:
    """Whether no process has this id any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_job_gets_its_config_and_gives_its_events_and_its_result(jobs, spec):
    seen: list[Event] = []
    job = spec("emit('progress', stage='a', done=1, total=2)\nprint('words')\nemit('done', got=config)")
    done = jobs.run(job, seen.append)
    assert done == {"event": "done", "got": {"text": "hello"}}
    assert [event["event"] for event in seen] == ["progress", "done"]
    assert (jobs.folder / "small.log").read_text() == "words\n"
    assert json.loads((jobs.folder / "small.json").read_text()) == {"text": "hello"}


def test_a_job_sees_what_it_is_allowed_to_see_and_no_more(jobs, spec, monkeypatch):
    monkeypatch.setenv("TICKWORKS_SECRET", "s")
    monkeypatch.setenv("TICKWORKS_PASSED", "p")
    job = spec("emit('done', environment=dict(os.environ))", variables=("TICKWORKS_PASSED",), cpus=2)
    environment = jobs.run(job)["environment"]
    assert environment["TICKWORKS_PASSED"] == "p"
    assert "TICKWORKS_SECRET" not in environment
    assert {environment[name] for name in THREADS} == {"2"}
    assert environment["PATH"] == os.environ["PATH"]


def test_a_variable_that_is_not_set_is_told_before_anything_starts(jobs, spec):
    with pytest.raises(SubmitError, match="small needs NOWHERE from this environment; set it first"):
        jobs.run(spec("emit('done')", variables=("NOWHERE",)))


def test_a_job_runs_on_this_interpreter():
    assert JobSpec("a", "b", "{}").command(Path("c"))[0] == sys.executable


def test_the_jobs_own_error_is_the_message(jobs, spec):
    with pytest.raises(JobFailedError) as error:
        jobs.run(spec("emit('error', error='X', message='no day stored; ingest it'); sys.exit(1)", retries=2))
    assert str(error.value) == "no day stored; ingest it"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('last words'); sys.exit(3)", "small ended with status 3; the end of"),
        ("os.kill(os.getpid(), 9)", "small was killed by SIGKILL; the end of"),
        ("print('last words')", "small ended without a result; the end of"),
        ("emit('done'); sys.exit(4)", "small ended with status 4"),
        ("raise ZeroDivisionError('a bug')", "ZeroDivisionError: a bug"),
    ],
)
def test_a_job_that_dies_is_told_with_its_end_and_where_its_log_is(jobs, spec, body, words):
    with pytest.raises(JobFailedError) as error:
        jobs.run(spec(body))
    assert words in str(error.value)
    assert str(jobs.folder / "small.log") in str(error.value)
    if "last words" in body:
        assert "\n  last words" in str(error.value)


def test_a_job_that_died_is_tried_again_and_an_own_error_is_not(jobs, spec, tmp_path):
    seen: list[Event] = []
    mark = tmp_path / "mark"
    dies_once = f"if not Path({str(mark)!r}).exists(): Path({str(mark)!r}).touch(); os._exit(9)\nemit('done')"
    assert jobs.run(spec(dies_once, retries=1), seen.append) == {"event": "done"}
    assert [(event["event"], event.get("attempt")) for event in seen] == [("retry", 1), ("done", None)]
    mark.unlink()
    with pytest.raises(JobFailedError, match="status 9"):
        jobs.run(spec(dies_once))


def test_a_job_is_stopped_at_its_deadline(jobs, spec):
    pids: list[int] = []
    job = spec("emit('ready', pid=os.getpid()); time.sleep(600)", deadline_s=0.5)
    with pytest.raises(JobFailedError, match=r"small was stopped after 0.5 s, its deadline"):
        jobs.run(job, lambda event: pids.append(event["pid"]))
    assert all(map(ended, pids))


def test_a_job_and_its_children_end_when_its_caller_is_interrupted(jobs, spec):
    pids: list[int] = []

    def interrupt(event: Event) -> None:
        pids.extend(event["pids"])
        raise KeyboardInterrupt

    body = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
emit('ready', pids=[os.getpid(), child.pid])
time.sleep(600)
"""
    with pytest.raises(KeyboardInterrupt):
        jobs.run(spec(body), interrupt)
    assert ended(pids[0])
    while not ended(pids[1]):  # its new parent may take a moment to bury it
        time.sleep(0.01)


def test_garbage_hides_no_event_and_goes_to_the_log(jobs, spec):
    body = r"""
sys.stdout.buffer.write(b'{broken\n\xff\xfe no text\n[1, 2]\n{"no": "event"}\nnull\n\n')
sys.stdout.flush()
emit("done")
sys.stderr.write("no end of line")
"""
    assert jobs.run(spec(body)) == {"event": "done"}
    log = (jobs.folder / "small.log").read_text()
    for words in ("{broken", "no text", '{"no": "event"}', "no end of line"):
        assert words in log


def test_events_are_found_wherever_the_output_is_cut(tmp_path):
    text = 'a\n{"event": "progress", "done": 1}\nb\n{"event": "done", "n": "é"}\nc'
    for cut in range(len(text)):
        seen: list[Event] = []
        lines = Lines(tmp_path / f"{cut}.log", seen.append)
        for piece in (text[:cut], text[cut:]):
            lines.write(piece)
        lines.close()
        assert [event["event"] for event in seen] == ["progress", "done"]
        assert (tmp_path / f"{cut}.log").read_text() == "a\nb\nc\n"


def test_a_spec_is_a_value_that_prints_as_json():
    spec = JobSpec.of("a", "b", Config("x"), metadata={"seed": "7"})
    assert spec == replace(spec)
    shown = json.loads(spec.as_json())
    assert shown["config"] == {"text": "x"}
    assert shown["metadata"] == {"seed": "7"}


def test_stopping_what_has_ended_is_no_error(jobs, spec):
    submission = jobs.submit(spec("emit('done')"))
    jobs.follow(submission, lambda event: None)
    jobs.stop(submission)
    jobs.stop(submission)
