"""Start a job as a process of its own, follow its events, and turn its failures into one clear error."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from workloads.runtime.jobs import config_json

Event = dict[str, Any]

GRACE_SECONDS = 30.0
"""What a job gets to end by itself before it is killed."""


class JobFailedError(Exception):
    """A job ended with an error; carries the job's own message."""


class JobProcess:
    """``python -m MODULE --config FILE`` with its events. A context manager that never leaves it running.

    The config and what the job writes to stderr are kept in ``folder``, as ``<name>.json`` and
    ``<name>.log``. The process gets no signal from this terminal: whoever holds it decides when it ends.
    """

    def __init__(self, name: str, module: str, config: Any, folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        path = folder / f"{name}.json"
        path.write_text(config_json(config))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "--config", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"{name} events", daemon=True)
        self._reader.start()
        self._error: str | None = None

    def __enter__(self) -> "JobProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_stdin()
        if self._process.poll() is None and error is not None:
            self._process.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_for(self, event: str, seen: Callable[[Event], None] | None = None) -> Event:
        """Follow events until this one; each goes to ``seen`` as well.

        Raises
        ------
        JobFailedError
            If the job ends before.
        """
        while (found := self._events.get()) is not None:
            if seen is not None:
                seen(found)
            if found["event"] == event:
                return found
            if found["event"] == "error":
                self._error = found["message"]
        raise JobFailedError(self._failure(event))

    def say(self, line: str) -> None:
        """Write a line to the job's stdin. Where the job is dead, `wait_for` says why."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()

    def close_stdin(self) -> None:
        """Tell a job that follows its stdin to end."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                return  # it has ended already

    def terminate(self) -> None:
        """Ask the job to end cleanly."""
        self._process.terminate()

    def _read(self) -> None:
        """Queue the job's events; what else it or a library of its prints goes to its log."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                found = None
            if isinstance(found, dict) and "event" in found:
                self._events.put(found)
            else:
                with self._log.open("a") as log:
                    log.write(line)
        self._events.put(None)

    def _failure(self, awaited: str) -> str:
        status = self._process.wait()
        if self._error:
            return self._error
        tail = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{self.name} {how} before {awaited!r}: {tail[0]} (all of it: {self._log})"
