"""A Ray on this machine: one that lives as long as a ``with`` block, or one that is running already."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from workloads.errors import WorkloadError
from workloads.runtime.jobs import Event
from workloads.runtime.submit import RAY_ENVIRONMENT, JobSpec, RayJobs, Seen, inherited

SESSION = "ray.json"
"""File in a folder that says where the Ray is that works for it; readable by its owner only."""
STOP_SECONDS = 60.0


class RayStartError(WorkloadError):
    """Ray did not start, or there is none to join."""


class LocalRay:
    """A Ray of our own, that nobody else reaches: on 127.0.0.1, on free ports, behind a token.

    A context manager. When the block ends, however it ends, and when this process dies, every process of
    this Ray is killed by its id, and of no other. Configs, logs and Ray's own logs (``ray/``, when it
    has stopped) lie in ``folder``.

    Parameters
    ----------
    folder : of the run that uses it
    cpus : cores that tasks may use together; default: all that this process may use
    object_store_bytes : bound of the shared memory of its object store
    patience_s : how long the start may take
    """

    def __init__(
        self,
        folder: Path,
        *,
        cpus: int | None = None,
        object_store_bytes: int = 256 << 20,
        patience_s: float = 180.0,
    ) -> None:
        self.folder = folder.absolute()
        self.jobs: RayJobs
        """Where jobs are submitted to, while it runs."""
        self._settings = {
            "cpus": cpus or len(os.sched_getaffinity(0)),
            "object_store_bytes": object_store_bytes,
            "patience_s": patience_s,
            "environment": RAY_ENVIRONMENT,
            "logs": str(self.folder / "ray"),
        }
        self._session = self.folder / SESSION
        self._log = self.folder / "ray.log"

    def __enter__(self) -> "LocalRay":
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as log:
            self._head = subprocess.Popen(
                [sys.executable, "-m", "workloads.runtime.head"],
                env=inherited(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for whoever owns it
            )
        try:
            self.session = self._start()
            self.jobs = RayJobs(self.session["api"], _token(self.session), self.folder)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """Of the process that holds it; all others are below it."""
        return self._head.pid

    def run(self, spec: JobSpec, seen: Seen = lambda event: None) -> Event:
        """Submit a job and follow it to its ``done`` event; see `Jobs.run`."""
        return self.jobs.run(spec, seen)

    def _start(self) -> dict[str, Any]:
        assert self._head.stdin is not None
        assert self._head.stdout is not None
        self._head.stdin.write(json.dumps(self._settings) + "\n")
        self._head.stdin.flush()
        said = json.loads(self._head.stdout.readline() or '{"error": "its process died"}')
        if "error" in said:
            tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise RayStartError(
                f"no Ray on this machine: {said['error']}; {' '.join(tail)} (all of it: {self._log}, "
                f"{self._settings['logs']})"
            )
        session: dict[str, Any] = {**said, "pid": self._head.pid}
        self._session.unlink(missing_ok=True)
        self._session.touch(mode=0o600)
        self._session.write_text(json.dumps(session))
        return session

    def _stop(self) -> None:
        """Close the pipe that it lives by, and wait until nothing of it is left."""
        assert self._head.stdin is not None
        assert self._head.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._head.stdin.close()
        try:
            self._head.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._head.kill()  # the processes below it end with it
            self._head.wait()
        self._head.stdout.close()
        self._session.unlink(missing_ok=True)


@contextlib.contextmanager
def joined(session: Path, folder: Path) -> Iterator[RayJobs]:
    """Jobs of a Ray that somebody else holds, who wrote ``session``; it runs on when the block ends.

    Raises
    ------
    RayStartError
        If none runs there any more.
    """
    path = session / SESSION if session.is_dir() else session
    try:
        found = json.loads(path.read_text())
        token = _token(found)
    except (OSError, ValueError, KeyError) as error:
        raise RayStartError(
            f"{session} leads to no running Ray: {error}; name the folder of a run that is going on, "
            "or leave it out to start one"
        ) from error
    yield RayJobs(found["api"], token, folder)


@contextlib.contextmanager
def driver(ray: LocalRay) -> Iterator[None]:
    """Make this process a driver of that Ray, so that it may call `ray_map` itself.

    Ray reads RAY_ENVIRONMENT when it is imported and the token when it first needs it: a process can be the
    driver of one Ray in its life, and must not have imported `ray` before that environment was set.
    """
    os.environ["RAY_AUTH_TOKEN_PATH"] = ray.session["token_file"]
    import ray as library

    library.init(address=ray.session["gcs"], log_to_driver=False)
    try:
        yield
    finally:
        library.shutdown()


def _token(session: dict[str, Any]) -> str:
    return Path(session["token_file"]).read_text()
