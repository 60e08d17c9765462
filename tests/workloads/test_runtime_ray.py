"""A real Ray of this machine: who reaches it, what is left of it, and jobs and maps that survive a death."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from workloads.errors import WorkloadError
from workloads.runtime.cluster import LocalRay, RayStartError, joined
from workloads.runtime.head import descendants
from workloads.runtime.jobs import Event
from workloads.runtime.parallel import WorkerLostError, job_map, ray_map
from workloads.runtime.submit import JobFailedError, JobSpec, ProcessJobs
from workloads.ticks.archive import MissingDataError

pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")

DEFAULT_PORTS = {6379, 8076, 8265, 10001, 44217, 44227, 52365}
"""Where a Ray listens that was started without a thought."""

JOB = """
import os
from dataclasses import dataclass
from pathlib import Path
from workloads.errors import WorkloadError
from workloads.runtime.jobs import emit, job_main
from workloads.runtime.parallel import job_map

@dataclass(frozen=True)
class SquaresConfig:
    count: int = 6
    marks: str = ""
    bad: int = -1

def square(config_and_n):
    config, n = config_and_n
    mark = Path(config.marks) / str(n) if config.marks else None
    if mark and n % 2 and not mark.exists():
        mark.touch()
        os._exit(1)
    if n == config.bad:
        raise WorkloadError(f"{n} has no square; leave it out")
    return n * n

def run(config, map=map):
    squares = []
    for value in map(square, [(config, n) for n in range(config.count)]):
        squares.append(value)
        emit("progress", stage="squares", done=len(squares), total=config.count, unit="numbers")
    print("some words")
    emit("done", squares=squares, secret=os.environ.get("TICKWORKS_SECRET"), folder=os.getcwd())

def main():
    job_main(SquaresConfig, lambda config: run(config, map=job_map()), __doc__)
"""


@dataclass(frozen=True)
class SquaresConfig:
    """As the job has it."""

    count: int = 6
    marks: str = ""
    bad: int = -1


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A spec of the job above."""
    (tmp_path / "squares_job.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TICKWORKS_SECRET", "s")

    def spec(config: SquaresConfig, **others: object) -> JobSpec:
        return JobSpec.of("squares", "squares_job", config, **others)

    return spec


def status(url: str, token: str | None) -> int:
    """HTTP status of a GET."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def wait_until_ended(pids: list[int]) -> None:
    """Return when none of these processes runs; fail after a time that no machine needs."""
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=120)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_the_job_api_answers_nobody_without_the_token(local_ray):
    token = Path(local_ray.session["token_file"]).read_text()
    jobs = f"{local_ray.session['api']}/api/jobs/"
    assert status(jobs, None) in (401, 403)
    assert status(jobs, token[:-1] + "x") in (401, 403)
    assert status(jobs, token) == 200
    assert len(token) == 64


def test_what_opens_the_door_is_readable_by_its_owner_only(local_ray):
    for path in (Path(local_ray.session["token_file"]), local_ray.folder / "ray.json"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert Path(local_ray.session["temp"]).stat().st_mode & 0o777 == 0o700


def test_every_port_is_on_loopback_and_none_is_a_default(local_ray):
    listening = [
        connection.laddr
        for pid in descendants(local_ray.pid)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 5
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert not DEFAULT_PORTS & {address.port for address in listening}


def test_a_job_answers_as_it_does_in_a_plain_process(local_ray, spec, tmp_path):
    job, seen = spec(SquaresConfig()), []
    done = local_ray.run(job, seen.append)
    assert done == ProcessJobs(tmp_path / "plain").run(job)
    assert done["squares"] == [0, 1, 4, 9, 16, 25]
    assert (done["secret"], done["folder"]) == (None, str(Path.cwd()))
    assert [event.get("done") for event in seen] == [1, 2, 3, 4, 5, 6, None]
    assert "some words" in (local_ray.folder / "squares.log").read_text()


def test_workers_that_are_killed_change_nothing(local_ray, spec, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    done = local_ray.run(spec(SquaresConfig(marks=str(marks))))
    assert done["squares"] == [0, 1, 4, 9, 16, 25]
    assert sorted(path.name for path in marks.iterdir()) == ["1", "3", "5"]


def test_an_error_of_a_task_is_the_jobs_own_error(local_ray, spec):
    with pytest.raises(JobFailedError) as error:
        local_ray.run(spec(SquaresConfig(bad=3)))
    assert str(error.value) == "3 has no square; leave it out"


def test_a_job_that_cannot_start_is_told_with_its_end_and_its_log(local_ray, spec):
    missing = JobSpec.of("missing", "no_such_job", SquaresConfig())
    with pytest.raises(JobFailedError, match="missing ended with status 1") as error:
        local_ray.run(missing)
    assert "No module named 'no_such_job'" in str(error.value)
    assert str(local_ray.folder / "missing.log") in str(error.value)


def test_a_job_ends_when_its_caller_is_interrupted(local_ray, tmp_path, monkeypatch):
    program = """
        import os, time
        from workloads.runtime.jobs import emit
        def main():
            emit("ready", pid=os.getpid())
            time.sleep(600)
    """
    (tmp_path / "long_job.py").write_text("\n".join(line[8:] for line in program.splitlines()))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pids: list[int] = []

    def interrupt(event: Event) -> None:
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_ray.run(JobSpec("long", "long_job", "{}"), interrupt)
    wait_until_ended(pids)


def test_a_job_is_stopped_at_its_deadline(local_ray, spec):
    with pytest.raises(JobFailedError, match=r"squares was stopped after 0.01 s, its deadline"):
        local_ray.run(spec(SquaresConfig(), deadline_s=0.01))


def test_another_command_can_join_and_leaves_it_running(local_ray, spec, tmp_path):
    with joined(local_ray.folder, tmp_path / "joined") as jobs:
        assert jobs.run(spec(SquaresConfig(count=1)))["squares"] == [0]
    assert status(f"{local_ray.session['api']}/api/version", None) in (401, 403)
    with (
        pytest.raises(RayStartError, match=r"leads to no running Ray.*leave it out to start one"),
        joined(tmp_path, tmp_path),
    ):
        pass


def test_nothing_is_left_of_a_ray_and_that_of_somebody_else_lives_on(local_ray, tmp_path):
    with pytest.raises(ZeroDivisionError), LocalRay(tmp_path, cpus=1) as ray:
        pids = [ray.pid, *descendants(ray.pid)]
        assert len(pids) > 6
        raise ZeroDivisionError
    assert not any(map(psutil.pid_exists, pids))
    assert not Path(ray.session["temp"]).exists()
    assert not (tmp_path / "ray.json").exists()
    assert (tmp_path / "ray" / "raylet.out").exists()
    assert status(f"{local_ray.session['api']}/api/jobs/", None) in (401, 403)
    assert len(descendants(local_ray.pid)) > 6


OWNER = """
import json, sys, time
from pathlib import Path
from workloads.runtime.cluster import LocalRay
from workloads.runtime.head import descendants
with LocalRay(Path(sys.argv[1]), cpus=1) as ray:
    print(json.dumps([ray.session["temp"], ray.pid, *descendants(ray.pid)]), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGKILL, "owner"),
        pytest.param(signal.SIGINT, "owner", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "holder", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "holder", marks=pytest.mark.slow),
    ],
)
def test_a_ray_ends_with_its_owner_or_its_holder_however_they_die(tmp_path, number, whom):
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        temp, holder, *others = json.loads(owner.stdout.readline())
        os.kill(owner.pid if whom == "owner" else holder, number)
        wait_until_ended(others)
        owner.kill()
    wait_until_ended([holder])
    nobody_cleans = (number, whom) == (signal.SIGKILL, "holder")
    assert Path(temp).exists() == nobody_cleans
    shutil.rmtree(temp, ignore_errors=True)


def test_a_ray_that_does_not_start_is_one_error_and_leaves_nothing(tmp_path):
    with pytest.raises(RayStartError, match=r"Ray did not answer within 0.01 s.*ray\.log"):
        LocalRay(tmp_path, patience_s=0.01).__enter__()
    assert not (tmp_path / "ray.json").exists()


def test_a_map_keeps_the_order_and_reads_no_further_than_it_may(ray_driver):
    read: list[int] = []

    def items():
        for n in range(12):
            read.append(n)
            yield n

    results = ray_map(lambda n: (time.sleep(0.05 * (n % 3)), n)[1], items(), in_flight=4)
    assert read == []
    for n in range(12):
        assert next(results) == n
        assert len(read) <= n + 5
    assert list(results) == []


DEATHS = {"leaves": lambda: os._exit(1), "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL)}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())
def test_a_worker_that_dies_once_is_replaced(ray_driver, tmp_path, death):
    def fragile(n: int) -> int:
        mark = tmp_path / str(n)
        if n == 2 and not mark.exists():
            mark.touch()
            death()
        return 10 * n

    told: list[int] = []
    assert list(ray_map(fragile, range(5), progress=told.append)) == [0, 10, 20, 30, 40]
    assert (tmp_path / "2").exists()
    assert told == sorted(told)
    assert told[-1] == 5


def test_a_worker_that_dies_every_time_is_one_error(ray_driver):
    with pytest.raises(WorkerLostError, match="died every time"):
        list(ray_map(lambda n: os._exit(1), [1], retries=1))


@pytest.mark.parametrize("error", [WorkloadError("say; do"), MissingDataError("x"), ValueError("y")])
def test_an_error_comes_out_as_it_went_in(ray_driver, error):
    def fail(n: int) -> int:
        raise error

    with pytest.raises(type(error)) as found:
        list(ray_map(fail, range(3)))
    assert type(found.value) is type(error)
    assert str(found.value) == str(error)


def test_a_map_over_nothing_is_empty(ray_driver):
    assert list(ray_map(lambda n: n, [])) == []


def test_outside_a_job_the_map_is_the_built_in():
    assert job_map() is map
