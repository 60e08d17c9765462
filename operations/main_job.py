"""The main job: exchange and ingest as two processes, the proof, the research stages, the report."""

import json
import os
import platform
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from environments.errors import ConfigError
from environments.files import load
from operations.console import RunProgress, print_summary, stderr
from operations.ingest import ingest_config
from operations.jobs import Event, JobFailedError, JobProcess
from operations.proof import Proof, prove
from operations.replay import refuse_real_groups
from operations.stages import STAGES
from workloads.errors import WorkloadError
from workloads.exchange.captures import Terms
from workloads.exchange.feed import Endpoint, Impairment, SendLog
from workloads.exchange.job import ExchangeConfig
from workloads.exchange.simulator import SimulatorConfig
from workloads.ingest import job as ingest_job
from workloads.ingest.errors import SpoolError
from workloads.ingest.job import IngestConfig
from workloads.ingest.spool import locked, segments
from workloads.runtime.jobs import events_to, parse_config
from workloads.ticks.archive import code_version, open_archive
from workloads.ticks.commits import Commit, DataCommit

SIMULATOR_SPEED = 300.0
SETTLE_SECONDS = 0.3
"""How long after the last datagram ingest may still find some in its sockets."""
OTHER_PORTS = (
    "or run on other ports: copy environments/local.toml to mine.toml, change its name and ports, "
    "and add --env ./mine.toml"
)


class StoppedError(Exception):
    """Ctrl-C: everything received is committed, but the session is not whole."""


@dataclass(frozen=True)
class Options:
    """What `tickworks run` was asked for; see its help."""

    runs: Path
    quiet: bool
    until: str
    capture: Path | None
    seed: int
    duration: float
    speed: float | None
    max_rate: int
    loss_a: float
    loss_b: float
    skew_us: int
    environment: str
    channel: int | None
    tick: str | None
    multiplier: str | None
    display_factor: str | None
    currency: str | None

    @property
    def pace(self) -> float:
        """Times the original pace; 0 is flat out."""
        if self.speed is not None:
            return self.speed
        return 0.0 if self.capture else SIMULATOR_SPEED


class MainJob:
    """One run, in a folder of its own under ``options.runs``."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._environment = load(options.environment)
        refuse_real_groups(self._environment)
        if self._environment.multicast.interface is None:
            raise ConfigError(
                f"{self._environment.name} names no interface of this machine to send from and to join on; "
                "use an environment that has multicast.interface, such as --env local"
            )
        self._ingest = ingest_config(self._environment, options.channel)
        self._started = datetime.now(UTC)
        self.folder = options.runs / self._started.strftime("%Y%m%dT%H%M%S")
        self._seconds: dict[str, float] = {}
        self._sending = False

    def run(self) -> bool:
        """Everything; True when the gaps table agrees with what was sent.

        Raises
        ------
        JobFailedError, WorkloadError, ConfigError
            With what happened and what to do; what was received stays in the run's spool.
        StoppedError
            On Ctrl-C.
        """
        finish_interrupted(self._options.runs)
        self._create_folder()
        try:
            return self._run()
        except (ConfigError, WorkloadError, JobFailedError, KeyboardInterrupt) as error:
            if str(self.folder) not in str(error):  # else the message sends people there
                self._remove_folder_without_data()
            if "port is in use" in str(error):
                raise JobFailedError(f"{error}; {OTHER_PORTS}") from error
            raise

    def _run(self) -> bool:
        with self._timed("prepare"), ExitStack() as stack:
            exchange = stack.enter_context(
                JobProcess("exchange", "workloads.exchange.job", self._exchange_config(), self.folder)
            )
            # A capture says where its sequence begins, so ingest starts behind it; a simulator's begins at 1.
            ready = exchange.wait_for("ready") if self._options.capture else None
            ingest = stack.enter_context(
                JobProcess("ingest", "workloads.ingest.job", self._ingest_config(ready), self.folder)
            )
            ready = ready or exchange.wait_for("ready")
            listening = ingest.wait_for("ready")
            if listening["warning"]:
                stderr.print(listening["warning"], style="yellow", markup=False)
            jobs = stack.pop_all()
        with jobs:
            sent, stored = self._feed(exchange, ingest, ready)
        if sent["stopped"]:
            raise StoppedError(
                f"stopped; {stored['packets']:,} packets are committed in {self.folder / 'archive'}. "
                f"Run it again for a whole session"
            )
        if not stored["packets"]:
            raise JobFailedError(
                f"{sent['packets']:,} packets were sent and none arrived: something filters multicast on "
                f"{self._ingest.interface}; look at: ip -4 addr, ip link (MULTICAST, UP), nft list ruleset"
            )
        with self._timed("prove"):
            archive = open_archive(str(self.folder / "archive"))
            proof = prove(archive, SendLog.load(self.folder / "sent.npz"), stored["kernel_drops"])
            result = self._result(ready, sent, stored, proof)
        try:
            if self._options.until != STAGES[0]:
                result["research"] = {}
                self._research(archive.data_commit(), result["research"])
        except (WorkloadError, OSError) as error:
            result["research"]["skipped"] = f"{result['research']['skipped'].partition(':')[0]}: {error}"
            self._conclude(result)
            raise
        except KeyboardInterrupt as interrupt:
            stderr.print("stopping: the report will tell what was done ...")
            report = self._conclude(result)
            raise StoppedError(
                f"stopped; all ticks and the stages that were done are in {self.folder / 'archive'}, and in "
                f"{report}. `tickworks submit` runs a stage on them"
            ) from interrupt
        self._conclude(result)
        return proof.equal

    def _conclude(self, result: dict[str, Any]) -> Path:
        """Write the run's facts and its report, whatever research came to, and sum up."""
        result["finished"] = datetime.now(UTC).isoformat()
        (self.folder / "run.json").write_text(json.dumps(result, indent=2))
        with self._timed("report"):
            from operations.report import build_report

            report = build_report(self.folder)
        self._point_latest_here()
        if not self._options.quiet:
            print_summary(result, self._seconds, report)
        return report

    def _research(self, data_commit: DataCommit, record: dict[str, Any]) -> None:
        from operations.research import run_research

        run_research(
            self.folder,
            data_commit,
            seed=self._options.seed,
            until=self._options.until,
            timed=self._timed,
            quiet=self._options.quiet,
            record=record,
        )

    def _create_folder(self) -> None:
        runs = self._options.runs
        runs.mkdir(parents=True, exist_ok=True)
        for attempt in range(100):
            folder = self.folder if attempt == 0 else self.folder.with_name(f"{self.folder.name}-{attempt}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            self.folder = folder
            return
        raise FileExistsError(17, "too many runs in one second", str(self.folder))

    def _remove_folder_without_data(self) -> None:
        """Configs and logs of jobs that sent nothing and received nothing help nobody."""
        if not (self._sending or (self.folder / "archive").exists() or segments(self.folder / "spool")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _exchange_config(self) -> ExchangeConfig:
        options = self._options
        skew = options.skew_us * 1_000
        return ExchangeConfig(
            endpoints=tuple(Endpoint(feed.name, feed.group, feed.port) for feed in self._ingest.feeds),
            interface=self._ingest.interface,
            simulator=None
            if options.capture
            else SimulatorConfig(
                seed=options.seed, duration_ns=int(options.duration * 1e9), channel=self._ingest.channel
            ),
            capture=str(options.capture) if options.capture else None,
            terms=Terms.of(options.tick, options.multiplier, options.display_factor, options.currency),
            impairments={
                "A": Impairment(loss=options.loss_a),
                "B": Impairment(loss=options.loss_b, skew_ns=skew),
            },
            speed=options.pace,
            max_rate_pps=options.max_rate,
            seed=options.seed,
            out=str(self.folder),
            wait=True,
        )

    def _ingest_config(self, ready: Event | None) -> IngestConfig:
        capture = self._options.capture
        name = capture.name if capture else f"simulator, seed {self._options.seed}"
        return replace(
            self._ingest,
            archive=str(self.folder / "archive"),
            spool=str(self.folder / "spool"),
            first_seq=ready["first_seq"] if ready else 1,
            stop_with_stdin=True,
            source={"feed": name, "code": code_version()},
        )

    def _feed(self, exchange: JobProcess, ingest: JobProcess, ready: Event) -> tuple[Event, Event]:
        """Let the exchange send, ingest follow; return their final events."""
        progress = RunProgress(ready, quiet=self._options.quiet)
        with progress, ExitStack() as stopping:
            follower = stopping.enter_context(_Follower(ingest, progress.stored, exchange.terminate))
            with self._timed("feed"):
                self._sending = True
                exchange.say("go")
                try:
                    sent = exchange.wait_for("done", progress.sent)
                except KeyboardInterrupt:
                    stderr.print("stopping: what was received will be committed ...")
                    exchange.terminate()
                    sent = exchange.wait_for("done", progress.sent)
                except JobFailedError:
                    ingest.close_stdin()
                    follower.result()  # raises what stopped ingest: that is mostly the cause of both
                    raise
                time.sleep(SETTLE_SECONDS)
            with self._timed("store"):
                ingest.close_stdin()
                stored = follower.result()
        return sent, stored

    def _timed(self, stage: str) -> "_Timed":
        return _Timed(self._seconds, stage)

    def _result(self, ready: Event, sent: Event, stored: Event, proof: Proof) -> dict[str, Any]:
        """What `run.json` holds: the report and people read it."""
        options = self._options
        archive = open_archive(str(self.folder / "archive"))
        data_commit = archive.data_commit()
        commits = [
            [table, partition.path, entry.n, _total(entry, "rows"), _total(entry, "bytes")]
            for table in archive.tables()
            for partition in archive.committed(table)
            for entry in archive.log(table, partition)
        ]
        return {
            "name": self.folder.name,
            "command": shlex.join(["tickworks", *sys.argv[1:]]),
            "source": {
                "kind": "capture" if options.capture else "simulator",
                "name": str(options.capture.name if options.capture else ready["source"]),
                "seed": None if options.capture and not (options.loss_a or options.loss_b) else options.seed,
                "speed": options.pace,
                "notes": ready["notes"],
            },
            "until": options.until,
            "environment": self._environment.name,
            "venue": self._ingest.venue,
            "channel": self._ingest.channel,
            "started": self._started.isoformat(),
            "seconds": self._seconds,
            "sent": {
                "packets": sent["packets"],
                **{
                    name: {"sent": feed["packets"] - feed["dropped"], "dropped": feed["dropped"]}
                    for name, feed in sent["feeds"].items()
                },
            },
            "ingest": {key: value for key, value in stored.items() if key not in ("event", "commits")},
            "proof": asdict(proof),
            "data_commit": data_commit.id,
            "commits": commits,
            "version": code_version(),
            "machine": machine(),
            "research": None,
        }

    def _point_latest_here(self) -> None:
        """`latest` in the folder of runs; replaced at once, never missing."""
        link = self._options.runs / "latest"
        fresh = self._options.runs / f".latest-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.folder.name)
        fresh.replace(link)


class _Follower:
    """Follows a job's events in a thread, so that two jobs are followed at once."""

    def __init__(
        self, job: JobProcess, seen: Callable[[Event], None], on_failure: Callable[[], None]
    ) -> None:
        self._job = job
        self._seen = seen
        self._on_failure = on_failure
        self._event: Event | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="follow ingest", daemon=True)

    def __enter__(self) -> "_Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._job.close_stdin()
        self._thread.join()

    def _follow(self) -> None:
        try:
            self._event = self._job.wait_for("done", self._seen)
        except Exception as error:  # noqa: BLE001  # raised again by result(), in the thread that asks
            self._error = error
            self._on_failure()

    def result(self) -> Event:
        """The job's ``done``, once it came; its error is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._event is not None
        return self._event


class _Timed:
    """Notes the wall-clock seconds of a stage."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._stage] = round(time.monotonic() - self._began, 2)


def _total(entry: Commit, field: str) -> int:
    """Rows or bytes that a commit added."""
    return sum(getattr(file, field) for file in entry.added)


def finish_interrupted(runs: Path) -> None:
    """Commit what killed runs have left in their spools; runs that are under way are left alone.

    A run that can't be finished is told on stderr, and keeps its spool.
    """
    for spool in sorted(runs.glob("*/spool")):
        folder = spool.parent
        if (
            folder.name == "latest"
            or not segments(spool)
            or not (folder / "ingest.json").exists()
            or in_use(spool)
        ):
            continue
        try:
            packets = _finish(folder)
        except (WorkloadError, OSError) as error:
            advice = (
                "another command works on it, so there is nothing to do"
                if in_use(spool)
                else f"what it received stays in {spool}; to go without it, move {folder} out of {runs}"
            )
            stderr.print(
                f"the interrupted run {folder.name} is not finished: {error}; {advice}",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
            continue
        stderr.print(
            f"finished the interrupted run {folder.name}: "
            f"{packets:,} packets from its spool are now in {folder / 'archive'}",
            markup=False,
        )


def _finish(folder: Path) -> int:
    """Commit what a run's spool holds; return how many packets."""
    path = folder / "ingest.json"
    config = parse_config(IngestConfig, path.read_text(errors="replace"), str(path))
    # Beside its config, wherever the run was started from and the folder lies by now.
    config = replace(config, feeds=(), spool=str(folder / "spool"), archive=str(folder / "archive"))
    with events_to(lambda event: None):
        return ingest_job.run(open_archive(config.archive), config).packets


def in_use(spool: Path) -> bool:
    """Whether an ingest works on this spool folder now."""
    try:
        with locked(spool):
            return False
    except SpoolError:
        return True


def machine() -> dict[str, Any]:
    """The machine, as far as it explains a measurement."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
