"""Submit a job and follow it: to Ray's job API, or as a plain process. One description for every target."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workloads.errors import WorkloadError
from workloads.runtime.jobs import Event, config_json

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "SSL_CERT_FILE")
"""What a job gets of the submitter's environment without asking: where things lie, never a secret."""
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
"""Thread pools that take all cores of the machine unless told otherwise; torch follows the first."""
RAY_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What every process of a local Ray needs in its environment before it imports ``ray``: a token is asked for,
and 127.0.0.1 stays 127.0.0.1 (Ray does so on other systems only, unless told)."""
TAIL_LINES = 12
STOP_SECONDS = 15.0
"""What a job gets to end by itself before it is killed."""

Seen = Callable[[Event], None]


class JobFailedError(WorkloadError):
    """A job did not end as it should; the message is its own last word."""


class SubmitError(WorkloadError):
    """A job could not be submitted, or its target is gone."""


@dataclass(frozen=True)
class JobSpec:
    """One submission, for every target alike."""

    name: str
    """Of the submission: of its files, and part of its id."""
    module: str
    """With a ``main()`` that takes ``--config FILE``; see `workloads.runtime.jobs.job_main`."""
    config: str
    """The job's whole config as JSON."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Labels for people: data commit, seed, code version."""
    variables: tuple[str, ...] = ()
    """Names of environment variables that the job gets from the submitter, beside INHERITED."""
    cpus: int = 0
    """Cores kept free for the job's own process. 0: it waits for its tasks, which have their own."""
    memory_bytes: int | None = None
    """Memory kept free for the job's own process."""
    deadline_s: float | None = None
    """Seconds after which it is stopped and has failed."""
    retries: int = 0
    """How often it is submitted again after it died without a word of its own."""

    @classmethod
    def of(cls, name: str, module: str, config: Any, **others: Any) -> "JobSpec":
        """A spec from a config dataclass."""
        return cls(name, module, config if isinstance(config, str) else config_json(config), **others)

    def environment(self) -> dict[str, str]:
        """Everything that the job's process finds in its environment.

        Raises
        ------
        SubmitError
            If one of ``variables`` is not set here.
        """
        missing = [name for name in self.variables if name not in os.environ]
        if missing:
            raise SubmitError(f"{self.name} needs {', '.join(missing)} from this environment; set it first")
        threads = dict.fromkeys(THREADS, str(max(1, self.cpus)))
        return {**inherited(), **threads, **{name: os.environ[name] for name in self.variables}}

    def command(self, config: Path) -> list[str]:
        """What runs it: the same module in every place, under its own name so that it can be pickled."""
        return [sys.executable, "-c", f"from {self.module} import main; main()", "--config", str(config)]

    def as_json(self) -> str:
        """For people and for the run's record."""
        return json.dumps({**asdict(self), "config": json.loads(self.config)}, indent=2)


@dataclass(frozen=True)
class Submission:
    """A job that was submitted."""

    spec: JobSpec
    id: str
    """Unique at its target."""
    config: Path
    log: Path
    """Everything that the job and its libraries wrote, but its events."""


def inherited() -> dict[str, str]:
    """The part of this environment that jobs get without asking."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


class Lines:
    """Split what a job writes into its events and the rest, which goes to its log."""

    def __init__(self, log: Path, seen: Seen) -> None:
        self._log = log
        self._seen = seen
        self._rest = ""
        self.done: Event | None = None
        self.error: str | None = None

    def write(self, text: str) -> None:
        """Take a piece of output, which may end anywhere."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._line(line)

    def close(self) -> None:
        """Take what has no end of line as a line."""
        if self._rest:
            self.write("\n")

    def _line(self, line: str) -> None:
        found: Any = None
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(line)
        if not isinstance(found, dict) or "event" not in found:
            with self._log.open("a") as log:
                log.write(line + "\n")
            return
        if found["event"] == "done":
            self.done = found
        elif found["event"] == "error":
            self.error = str(found.get("message", found))
        self._seen(found)


class Jobs(ABC):
    """A place to submit jobs to. Configs and logs lie in ``folder``: ``<name>.json``, ``<name>.log``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def submit(self, spec: JobSpec) -> Submission:
        """Start a job."""

    @abstractmethod
    def follow(self, submission: Submission, seen: Seen) -> Event:
        """Wait for a job's end, telling each of its events; its ``done`` event.

        Raises
        ------
        JobFailedError
            With the job's own error, or with the end of its log.
        """

    @abstractmethod
    def stop(self, submission: Submission) -> None:
        """End a job; safe to repeat, and on one that has ended."""

    def run(self, spec: JobSpec, seen: Seen = lambda event: None) -> Event:
        """Submit a job and follow it to its ``done`` event; it never outlives this call.

        Raises
        ------
        JobFailedError
            With the job's own error, or with the end of its log.
        """
        for attempt in range(spec.retries + 1):
            submission = self.submit(spec)
            try:
                return self.follow(submission, seen)
            except _DiedError as error:
                if attempt == spec.retries:
                    raise JobFailedError(str(error)) from error
                seen({"event": "retry", "attempt": attempt + 1, "message": str(error)})
            finally:
                self.stop(submission)
        raise AssertionError("retries is negative")

    def _files(self, spec: JobSpec) -> tuple[Path, Path]:
        """The config's file, written, and the log's, which goes on when a job is tried again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder.absolute() / f"{spec.name}.json"
        config.write_text(spec.config)
        log = config.with_suffix(".log")
        log.touch()
        return config, log


class _DiedError(JobFailedError):
    """A job ended without a word of its own: trying again may help."""


def result(submission: Submission, lines: Lines, how: str | None) -> Event:
    """The ``done`` event of a job that has ended; ``how`` says what was wrong with its end, if anything."""
    name, log = submission.spec.name, submission.log
    if how is None and lines.done is not None:
        return lines.done
    if lines.error is not None:
        raise JobFailedError(lines.error)
    tail = log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:] or ["it wrote nothing"]
    raise _DiedError(f"{name} {how or 'ended without a result'}; the end of {log}:\n  " + "\n  ".join(tail))


def too_long(spec: JobSpec) -> str:
    """How a job ended that was stopped at its deadline."""
    return f"was stopped after {spec.deadline_s:g} s, its deadline"


class ProcessJobs(Jobs):
    """Jobs as plain processes of this machine, without Ray: for tests and for small ones."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def submit(self, spec: JobSpec) -> Submission:
        """Start it; see `Jobs.submit`."""
        config, log = self._files(spec)
        process = subprocess.Popen(
            spec.command(config),
            env=spec.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        submission = Submission(spec, f"{spec.name}-{process.pid}", config, log)
        self._processes[submission.id] = process
        return submission

    def follow(self, submission: Submission, seen: Seen) -> Event:
        """Read its output to the end; see `Jobs.follow`."""
        process = self._processes[submission.id]
        assert process.stdout is not None
        lines = Lines(submission.log, seen)
        with _deadline(submission.spec, lambda: self._signal(process, signal.SIGKILL)) as expired:
            for line in process.stdout:
                lines.write(line)
            status = process.wait()
        lines.close()
        how = None if status == 0 else f"ended with status {status}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        return result(submission, lines, too_long(submission.spec) if expired.is_set() else how)

    def stop(self, submission: Submission) -> None:
        """Ask its process group to end, then kill it; see `Jobs.stop`."""
        process = self._processes[submission.id]
        if process.poll() is None:
            self._signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        self._signal(process, signal.SIGKILL)  # children that it left behind
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    @staticmethod
    def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


@contextlib.contextmanager
def _deadline(spec: JobSpec, end: Callable[[], None]) -> Iterator[threading.Event]:
    """Call ``end`` when the job's time is over; the event says whether it was."""
    expired = threading.Event()
    if spec.deadline_s is None:
        yield expired
        return

    def late() -> None:
        expired.set()
        end()

    timer = threading.Timer(spec.deadline_s, late)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


class RayJobs(Jobs):
    """Jobs of a Ray cluster, through its job API.

    Parameters
    ----------
    api : URL of the job API
    token : of the cluster; the API answers nobody without it
    folder : of the configs and logs; the cluster's head must see it too
    """

    def __init__(self, api: str, token: str, folder: Path) -> None:
        super().__init__(folder)
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from ray.job_submission import JobSubmissionClient

        self.api = api
        with _clear(api):
            self._client = JobSubmissionClient(api, headers={"Authorization": f"Bearer {token}"})

    def submit(self, spec: JobSpec) -> Submission:
        """Hand it to the job API; see `Jobs.submit`."""
        config, log = self._files(spec)
        command = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(spec.command(config))}"
        with _clear(self.api):
            id = self._client.submit_job(
                entrypoint=command,
                submission_id=f"{spec.name}-{time.time_ns():x}",
                runtime_env={"env_vars": spec.environment()},
                metadata=dict(spec.metadata),
                entrypoint_num_cpus=spec.cpus or None,
                entrypoint_memory=spec.memory_bytes,
            )
        return Submission(spec, id, config, log)

    def follow(self, submission: Submission, seen: Seen) -> Event:
        """Read its log as it grows; see `Jobs.follow`."""
        lines = Lines(submission.log, seen)
        with _clear(self.api):
            try:
                asyncio.run(asyncio.wait_for(self._read(submission, lines), submission.spec.deadline_s))
            except TimeoutError:
                self.stop(submission)
                return result(submission, lines, too_long(submission.spec))
            info = self._ended(submission)
        lines.close()
        if info.status == "SUCCEEDED":
            return result(submission, lines, None)
        if info.driver_exit_code is None and info.message and info.status != "STOPPED":
            return result(submission, lines, f"was not started: {info.message}")
        status = info.driver_exit_code
        return result(submission, lines, "was stopped" if status is None else f"ended with status {status}")

    def stop(self, submission: Submission) -> None:
        """Ask it to end; Ray kills it if it does not; see `Jobs.stop`."""
        with _clear(self.api):
            if not self._client.get_job_info(submission.id).status.is_terminal():
                self._client.stop_job(submission.id)
                self._ended(submission)

    async def _read(self, submission: Submission, lines: Lines) -> None:
        pieces: AsyncIterator[str] = self._client.tail_job_logs(submission.id)
        async for text in pieces:
            lines.write(text)
            if lines.done is not None:
                break  # what is left to wait for is its end, not its log

    def _ended(self, submission: Submission) -> Any:
        """Wait for a job that is about to end."""
        while not (info := self._client.get_job_info(submission.id)).status.is_terminal():
            time.sleep(0.05)
        return info


@contextlib.contextmanager
def _clear(api: str) -> Iterator[None]:
    """Turn what Ray's client raises into one clear error."""
    import aiohttp
    import requests

    try:
        yield
    except (RuntimeError, ConnectionError, requests.RequestException, aiohttp.ClientError) as error:
        raise SubmitError(f"the Ray at {api} did not do as asked: {str(error).strip()}") from error
