"""What the tests of the whole share: the installed command, run as a user runs it, on groups of its own."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from workloads.ticks.archive import Archive, open_archive

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("tickworks")
PATIENCE_S = 240
"""How long anything may take before a test calls it hung. Nothing is asserted about speed."""


def free_port() -> int:
    """A UDP port that nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def write_environment(path: Path) -> Path:
    """`local` with groups and ports of its own, so that tests can run beside each other."""
    text = (ROOT / "environments/local.toml").read_text()
    group = random.SystemRandom().randrange(1, 250)
    replacements = {
        'name = "local"': f'name = "{path.stem}"',
        "239.255.31.": f"239.255.{group}.",
        **{f"port = {port}": f"port = {free_port()}" for port in (14310, 15310, 16310)},
    }
    for old, new in replacements.items():
        assert old in text, f"environments/local.toml no longer holds {old!r}"
        text = text.replace(old, new)
    path.write_text(text)
    return path


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names something in this folder, this test's own process not counted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if str(folder).encode() in (entry / "cmdline").read_bytes() and state != "Z":
                found.append(int(entry.name))
    return found


def wait_until(what: str, condition: Callable[[], Any]) -> Any:
    """Poll until the condition holds; its value."""
    until = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {PATIENCE_S} s in vain: {what}"
        time.sleep(0.02)
    return value


@dataclasses.dataclass(frozen=True)
class Run:
    """What one `tickworks run` left behind."""

    folder: Path

    @property
    def facts(self) -> dict[str, Any]:
        """run.json."""
        facts: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return facts

    @property
    def archive(self) -> Archive:
        return open_archive(str(self.folder / "archive"))

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """All rows of a table; none where it has never been written."""
        if name not in self.archive.tables():
            from workloads.ticks.schema import TABLES

            empty = TABLES[name].arrow.empty_table()
            return empty.select(columns) if columns else empty
        return self.archive.read(name, columns=columns)

    def sent(self) -> dict[str, Any]:
        """sent.npz, as the sender wrote it: A_seq, A_copies, ... ."""
        with np.load(self.folder / "sent.npz") as file:
            return {name: file[name] for name in file.files}

    def spool(self) -> list[Path]:
        """Segments that nobody has stored yet."""
        return sorted((self.folder / "spool").glob("*.spool"))


class Tickworks:
    """The command, in a working folder and with an environment of its own."""

    command = COMMAND

    def __init__(self, folder: Path, name: str = "bench") -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.environment = write_environment(folder / f"{name}.toml")

    def __call__(self, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> Any:
        """Run a command to its end; both streams as text."""
        return subprocess.run(
            [*prefix, str(COMMAND), *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def run(self, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> Any:
        """`tickworks run` with this environment and folder of runs, as far as the ticks unless told more."""
        return self("run", *self._places(), "--until", "ticks", *arguments, prefix=prefix)

    @contextlib.contextmanager
    def running(self, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> Iterator[Any]:
        """`tickworks run`, started; the process itself. Whatever is left of it is killed at the end."""
        places = *self._places(), "--until", "ticks"
        with self.started("run", *places, *arguments, prefix=prefix) as process:
            yield process

    @contextlib.contextmanager
    def started(self, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> Iterator[Any]:
        """Any command, started, in a session of its own as a terminal would have it."""
        process = subprocess.Popen(
            [*prefix, str(COMMAND), *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
            for left in processes_of(self.folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)

    def feeds(self) -> dict[str, dict[str, Any]]:
        """The feeds of the environment's channel: incremental_a, ... ."""
        feeds: dict[str, dict[str, Any]] = tomllib.loads(self.environment.read_text())["channels"][0]["feeds"]
        return feeds

    def ports(self, feeds: str) -> list[int]:
        """UDP ports of feeds a and b."""
        return [self.feeds()[f"incremental_{feed}"]["port"] for feed in feeds]

    def all_runs(self) -> list[Run]:
        """Oldest first."""
        folders = (path for path in self.runs.glob("2*") if path.is_dir())
        return [Run(path) for path in sorted(folders)]

    def latest(self) -> Run:
        """The run that `latest` points to."""
        return Run((self.runs / "latest").resolve(strict=True))

    def wait_for_packets(self, least_bytes: int = 60_000) -> Run:
        """The newest run, once its spool holds this much of the feed."""

        def receiving() -> Run | None:
            for run in reversed(self.all_runs()):
                if any(path.stat().st_size >= least_bytes for path in run.spool()):
                    return run
            return None

        run: Run = wait_until("packets in the spool", receiving)
        return run

    def job_of(self, run: Run, job: str) -> int:
        """Process id of one of a run's two jobs."""
        (pid,) = wait_until(f"the process of {job}", lambda: processes_of(run.folder / f"{job}.json"))
        return int(pid)

    def _places(self) -> tuple[str | Path, ...]:
        return "--env", self.environment, "--runs", self.runs


@pytest.fixture
def tickworks(tmp_path: Path) -> Tickworks:
    """The command with a folder and groups for this test alone."""
    return Tickworks(tmp_path)


@pytest.fixture(scope="module")
def shared_tickworks(tmp_path_factory: pytest.TempPathFactory) -> Tickworks:
    """The same for the tests of one file together."""
    return Tickworks(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Tickworks:
    """A working folder as a user has it: a short session under var/runs, all stages."""
    tickworks = Tickworks(tmp_path_factory.mktemp("home"))
    tickworks.runs = tickworks.folder / "var/runs"
    result = tickworks.run("--duration", "60s", "--quiet", "--until", "backtest")
    assert result.returncode == 0, result.stderr
    return tickworks


@pytest.fixture(scope="session")
def another_tickworks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Tickworks]:
    """Makes further ones."""
    return lambda: Tickworks(tmp_path_factory.mktemp("another"))
