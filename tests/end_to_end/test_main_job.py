"""`tickworks run` as a user sees it: real processes, real multicast on loopback, real kills.

What was lost is worked out here from the sender's log and the stored tables, apart from `operations.proof`.
"""

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.conftest import skip_or_fail
from tests.end_to_end.conftest import processes_of, wait_until
from workloads.ticks.codes import RowFlag

SHORT = ("--duration", "60s")
LONG = ("--duration", "10m", "--speed", "20")
"""Half a minute of wall clock: long enough to be interrupted."""
LOSSES = {
    "none": SHORT,
    "1 %": ("--duration", "10m", "--speed", "full", "--loss-a", "0.01", "--loss-b", "0.01"),
    "20 %": (*SHORT, "--loss-a", "0.2", "--loss-b", "0.2"),
    "everything": (*SHORT, "--loss-a", "1", "--loss-b", "1"),
}


def lost_numbers(run) -> set[int]:
    """What the gaps table calls lost and did not come late after all."""
    found = {"lost": set(), "late": set()}
    for row in run.table("gaps").to_pylist():
        found[row["outcome"]].update(range(row["first_seq"], row["last_seq"] + 1))
    return found["lost"] - found["late"]


def stored_numbers(run) -> list[int]:
    return run.table("packets", ["seq"])["seq"].to_pylist()


def numbers_sent_nowhere(run) -> set[int]:
    """Drops on A ∩ drops on B."""
    sent = run.sent()
    a, b = (set(sent[f"{feed}_seq"][sent[f"{feed}_copies"] == 0].tolist()) for feed in "AB")
    return a & b


def numbers_sent(run) -> set[int]:
    """Sequence numbers that left on at least one feed, without the closing heartbeat behind them all."""
    sent = run.sent()
    return set().union(*(sent[f"{feed}_seq"][sent[f"{feed}_copies"] > 0].tolist() for feed in "AB"))


def closing_number(run) -> int:
    """Of the heartbeat by which a receiver sees that the last packets are missing; it is not in the log."""
    return int(run.sent()["A_seq"][-1]) + 1


def kernel_drops(run) -> int:
    """What the kernel counted on the sockets of A and B."""
    rows = run.table("feeds", ["feed", "kernel_drops"]).to_pylist()
    return sum(row["kernel_drops"] for row in rows if row["feed"] in "AB")


def assert_gaps_are_what_was_lost(run) -> None:
    stored = stored_numbers(run)
    assert len(stored) == len(set(stored)), "a packet is stored twice"
    swallowed = numbers_sent(run) - set(stored)
    assert lost_numbers(run) == numbers_sent_nowhere(run) | swallowed
    assert len(swallowed) <= kernel_drops(run)
    assert set(stored) <= numbers_sent(run) | {closing_number(run)}, "a packet is stored that was never sent"


def socket_drops(port: int) -> int:
    """What the kernel has dropped on the sockets of this UDP port: the last column of /proc/net/udp."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(row[-1]) for row in rows if int(row[1].partition(":")[2], 16) == port)


def market_rows(run, table: str) -> pa.Table:
    """A table without what differs between two runs: when it arrived, and by which feed."""
    rows = run.table(table)
    flags = pc.bit_wise_and(rows["row_flags"], pa.scalar(0xFF & ~RowFlag.FEED_B, pa.uint8()))
    return rows.drop_columns(["ts_recv", "row_flags"]).append_column("row_flags", flags)


def assert_one_sentence(result, *words: str, status: int = 1) -> None:
    """A clear error: the exit status, nothing on stdout, one line on stderr without a traceback."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if status == 1:
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    message = " ".join(result.stderr.split())
    for word in words:
        assert word in message, message


@pytest.fixture(scope="module")
def runs_by_loss(shared_tickworks):
    """One run for each entry of LOSSES, in one folder of runs: (process result, run, latest after it)."""
    found = {}
    for name, options in LOSSES.items():
        result = shared_tickworks.run(*options)
        found[name] = result, shared_tickworks.all_runs()[-1], shared_tickworks.latest()
    return found


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_ends_with_its_facts_a_report_and_a_link_to_the_newest(runs_by_loss, loss):
    result, run, latest = runs_by_loss[loss]
    assert result.returncode == 0, result.stderr
    assert run.facts["proof"]["equal"] is True
    assert run.facts["name"] == run.folder.name
    assert "<html" in (run.folder / "report.html").read_text()
    assert latest.folder == run.folder.resolve()
    assert run.spool() == []


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gaps_are_exactly_what_neither_feed_brought(runs_by_loss, loss):
    _, run, _ = runs_by_loss[loss]
    assert_gaps_are_what_was_lost(run)
    assert bool(numbers_sent_nowhere(run)) == (loss != "none"), "the losses of this seed prove nothing"


def test_every_packet_that_was_sent_is_stored_with_all_it_carries(runs_by_loss):
    _, run, _ = runs_by_loss["none"]
    assert set(stored_numbers(run)) == numbers_sent(run) | {closing_number(run)}
    assert run.table("gaps").num_rows == 0
    for table in ("mbo", "mbp", "trades", "trade_orders", "definitions", "status", "snapshots"):
        assert run.table(table).num_rows > 0, table


def test_the_summary_goes_to_stdout_and_says_the_same_as_the_tables(runs_by_loss):
    result, run, _ = runs_by_loss["20 %"]
    summary = " ".join(result.stdout.split())
    lost = len(lost_numbers(run))
    assert f"{lost:,} are missing" in summary
    assert f"mbo {run.table('mbo').num_rows:,}" in summary
    assert run.facts["data_commit"] == run.archive.data_commit().id
    assert run.facts["data_commit"] in result.stdout.split()
    assert str(run.folder / "report.html") in result.stdout.splitlines()[-1], "the path can't be copied"


def test_rows_behind_a_loss_are_stale_and_those_in_front_are_not(runs_by_loss):
    _, run, _ = runs_by_loss["20 %"]
    first = min(lost_numbers(run))
    rows = run.table("mbo", ["seq", "row_flags"])
    seq, stale = rows["seq"].to_numpy(), rows["row_flags"].to_numpy() & RowFlag.STALE != 0
    np.testing.assert_array_equal(stale, seq > first)
    assert stale.any()
    _, whole, _ = runs_by_loss["none"]
    assert not (whole.table("mbo", ["row_flags"])["row_flags"].to_numpy() & RowFlag.STALE).any()


def test_two_runs_work_at_once_and_only_the_seed_makes_a_difference(
    runs_by_loss, tmp_path, another_tickworks
):
    """Same folder of runs, different groups: neither touches what the other is writing."""
    first, second = another_tickworks(), another_tickworks()
    second.runs = first.runs
    with first.running(*SHORT, "--seed", "7") as one, second.running(*SHORT, "--seed", "8") as two:
        outputs = [process.communicate(timeout=90) for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], outputs
    by_seed = {run.facts["source"]["seed"]: run for run in first.all_runs()}
    _, reference, _ = runs_by_loss["none"]
    for table in ("mbo", "trades"):
        assert market_rows(by_seed[7], table).equals(market_rows(reference, table))
        assert not market_rows(by_seed[8], table).equals(market_rows(reference, table))


def test_what_the_kernel_drops_is_in_the_gaps_too(tickworks):
    """The receiver stands still with a small buffer, while the exchange goes on sending."""
    dropped_rights = ("setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin")
    prefix = dropped_rights if os.geteuid() == 0 else ()  # root may have any buffer
    with tickworks.running("--duration", "15m", "--speed", "300", prefix=prefix) as process:
        run = tickworks.wait_for_packets(20_000)
        ingest = tickworks.job_of(run, "ingest")
        os.kill(ingest, signal.SIGSTOP)
        wait_until("full buffers", lambda: min(socket_drops(port) for port in tickworks.ports("ab")) > 100)
        os.kill(ingest, signal.SIGCONT)
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert "receive buffer" in errors  # the warning
    assert numbers_sent_nowhere(run) == set()
    assert lost_numbers(run), "nothing was dropped; this run proves nothing"
    assert_gaps_are_what_was_lost(run)
    assert run.facts["proof"]["kernel_dropped"] == len(lost_numbers(run))


def test_ctrl_c_commits_what_came_and_the_next_run_works(tickworks):
    with tickworks.running(*LONG) as process:
        run = tickworks.wait_for_packets()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "committed" in errors
    assert output == ""
    assert processes_of(tickworks.folder) == []
    assert run.spool() == []
    assert set(stored_numbers(run)) == numbers_sent(run), "something received is not committed"
    assert len(stored_numbers(run)) == len(numbers_sent(run))
    again = tickworks.run(*SHORT)
    assert again.returncode == 0, again.stderr
    assert "interrupted" not in again.stderr


def test_ctrl_c_before_anything_is_sent_is_clean_too(tickworks):
    with tickworks.running(*LONG) as process:
        wait_until("a job", lambda: [run for run in tickworks.all_runs() if processes_of(run.folder)])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert processes_of(tickworks.folder) == []


def test_after_kill_9_of_the_command_the_jobs_end_and_no_row_is_lost(tickworks):
    with tickworks.running(*LONG) as process:
        run = tickworks.wait_for_packets()
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        wait_until("the end of the jobs", lambda: not processes_of(tickworks.folder))
        interrupted = bool(run.spool())
        again = tickworks.run(*SHORT)
    assert again.returncode == 0, again.stderr
    assert interrupted == (
        f"finished the interrupted run {run.folder.name}" in " ".join(again.stderr.split())
    )
    assert run.spool() == []
    stored = stored_numbers(run)
    assert sorted(stored) == list(range(1, max(stored) + 1)), "a packet is missing or stored twice"
    assert run.archive.verify() == []


def test_after_kill_9_of_everything_the_next_run_finishes_the_dead_one(tickworks):
    """In the dead run's own folder, wherever that lies by now."""
    with tickworks.running(*LONG) as process:
        run = tickworks.wait_for_packets()
        for pid in (process.pid, *processes_of(tickworks.folder)):
            os.kill(pid, signal.SIGKILL)
        process.wait(30)
        wait_until("the end of the jobs", lambda: not processes_of(tickworks.folder))
    assert run.spool() != []
    assert run.archive.tables() == []
    before, tickworks.runs = tickworks.runs, tickworks.folder / "moved"
    before.rename(tickworks.runs)
    again = tickworks.run(*SHORT)
    assert again.returncode == 0, again.stderr
    dead, _ = tickworks.all_runs()
    stored = stored_numbers(dead)
    assert f"finished the interrupted run {dead.folder.name}: {len(stored):,} packets" in one_line(
        again.stderr
    )
    assert sorted(stored) == list(range(1, max(stored) + 1))
    assert dead.spool() == []
    assert not before.exists()


def test_the_death_of_ingest_is_told_at_once_and_finished_by_the_next_run(tickworks):
    with tickworks.running("--duration", "30m", "--speed", "1") as process:
        run = tickworks.wait_for_packets(5_000)
        os.kill(tickworks.job_of(run, "ingest"), signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    assert "Error: ingest was killed by signal 9" in one_line(errors)
    assert "Traceback" not in errors
    assert processes_of(tickworks.folder) == []
    again = tickworks.run(*SHORT)
    assert again.returncode == 0, again.stderr
    assert f"finished the interrupted run {run.folder.name}" in one_line(again.stderr)
    stored = stored_numbers(run)
    assert sorted(stored) == list(range(1, max(stored) + 1))


def test_the_death_of_the_exchange_is_told_and_what_came_is_committed(tickworks):
    with tickworks.running("--duration", "30m", "--speed", "1") as process:
        run = tickworks.wait_for_packets(5_000)
        os.kill(tickworks.job_of(run, "exchange"), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error: exchange was killed by signal 9" in one_line(errors)
    assert processes_of(tickworks.folder) == []
    assert run.spool() == []
    stored = stored_numbers(run)
    assert sorted(stored) == list(range(1, max(stored) + 1))


def test_a_port_in_use_is_one_sentence(tickworks):
    feed_b = tickworks.feeds()["incremental_b"]
    group, port = feed_b["group"], feed_b["port"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((group, port))
        result = tickworks.run(*SHORT)
    assert_one_sentence(result, "feed B", str(port), "in use", "ss -ulpn", "other ports", "--env ./mine.toml")
    assert processes_of(tickworks.folder) == []
    assert tickworks.all_runs() == [], "a run of which nothing is left but configs and logs"
    assert not (tickworks.runs / "latest").is_symlink()


BAD = {
    "missing capture": (("--capture", "nowhere.dbn.zst"), ("nowhere.dbn.zst", "check the path")),
    "folder as capture": (("--capture", "."), ("Is a directory",)),
    "wrong file type": (("--capture", "bench.toml"), ("bench.toml", "neither pcap nor DBN")),
    "unknown environment": (("--env", "lokal"), ("lokal", "local")),
    "unknown channel": (("--channel", "999"), ("999", "310")),
    "venue's own groups": (("--env", "prod"), ("prod", "come from the venue", "--env local")),
    "place without an interface": (("--env", "dev"), ("dev", "interface", "--env local")),
    "impossible tick": (("--capture", "bench.toml", "--tick", "cheap"), ("cheap",)),
    "no simulated time": (("--duration", "0.0000000001s"), ("duration",)),
    "too short to trade": (("--duration", "0.000001s"), ("duration",)),
    "negative seed": (("--seed", "-1"), ("seed",)),
    "enormous seed": (("--seed", str(2**70)), ("seed",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case, shared_tickworks):
    options, words = BAD[case]
    result = shared_tickworks.run(*SHORT, *options)
    if result.returncode == 2:  # found by the command line's own parser, which adds how to use it
        assert_one_sentence(result, *words, status=2)
    else:
        assert_one_sentence(result, *words)
    assert processes_of(shared_tickworks.folder) == []


def test_a_run_that_fails_before_it_receives_leaves_no_folder(tickworks):
    result = tickworks.run("--capture", "nowhere.dbn.zst")
    assert_one_sentence(result, "nowhere.dbn.zst", "check the path")
    assert tickworks.all_runs() == []


def test_the_log_that_a_message_points_to_is_kept(tickworks):
    """The exchange dies while it reads a capture that never ends."""
    os.mkfifo(tickworks.folder / "endless.pcap")
    with tickworks.running("--capture", "endless.pcap") as process:
        (run,) = wait_until("a run", tickworks.all_runs)
        os.kill(tickworks.job_of(run, "exchange"), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert str(run.folder / "exchange.log") in one_line(errors)
    assert (run.folder / "exchange.log").exists()


def test_a_broken_old_run_does_not_block_a_new_one(tickworks):
    spool = tickworks.runs / "20260101T000000" / "spool"
    spool.mkdir(parents=True)
    (spool / "00000001.spool").write_bytes(b"not whole")
    (spool.parent / "ingest.json").write_text("{}")
    result = tickworks.run(*SHORT)
    assert result.returncode == 0, result.stderr
    assert "the interrupted run 20260101T000000 is not finished" in one_line(result.stderr)


@pytest.mark.parametrize(
    "options",
    [("--nonsense",), ("--loss-a", "2"), ("--duration", "soon"), ("--speed", "-1"), ("surplus",)],
    ids=" ".join,
)
def test_wrong_usage_has_a_status_of_its_own(options, shared_tickworks):
    assert_one_sentence(shared_tickworks.run(*options), "Usage:", status=2)


def test_a_file_in_place_of_the_folder_of_runs_is_one_sentence(tickworks):
    tickworks.runs.write_text("mine")
    result = tickworks.run(*SHORT)
    assert_one_sentence(result, str(tickworks.runs), "file", status=2)
    tickworks.runs = tickworks.runs / "below"
    assert_one_sentence(tickworks.run(*SHORT), str(tickworks.runs), "Not a directory")


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A file system in memory at this folder; only root can mount one."""
    folder.mkdir()
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if result.returncode:
        skip_or_fail(f"cannot mount a small disk: {result.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_folder_that_cannot_be_written_is_one_sentence(tickworks):
    with mounted(tickworks.runs, "ro"):
        assert_one_sentence(tickworks.run(*SHORT), str(tickworks.runs), "Read-only file system")


@pytest.mark.parametrize(
    "size",
    ["1m", "3500k", *(pytest.param(f"{size}k", marks=pytest.mark.slow) for size in range(200, 5400, 400))],
)
def test_a_full_disk_loses_nothing_that_was_spooled(tickworks, size):
    with mounted(tickworks.runs, f"size={size}"):
        full = tickworks.run(*SHORT)
        assert_one_sentence(full, "o space left", str(tickworks.runs))
        assert processes_of(tickworks.folder) == []
        (run,) = tickworks.all_runs()
        assert not [finding for finding in run.archive.verify() if not finding.startswith("orphan")]
        interrupted = bool(run.spool())
        remount = ["mount", "-o", "remount,size=100m", tickworks.runs]
        subprocess.run(remount, check=True)
        again = tickworks.run(*SHORT)
        assert again.returncode == 0, again.stderr
        assert interrupted == (f"finished the interrupted run {run.folder.name}" in one_line(again.stderr))
        stored = stored_numbers(run)
        assert sorted(stored) == list(range(1, len(stored) + 1))
        assert run.spool() == []
        assert not [finding for finding in run.archive.verify() if not finding.startswith("orphan")]


def one_line(text: str) -> str:
    """Without the line breaks that fit a terminal."""
    return " ".join(text.split())
