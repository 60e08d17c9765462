"""The other commands, as somebody uses them who has just run a session."""

import json
import os
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import PATIENCE_S, wait_until
from workloads.ticks.archive import open_archive

START = 1_700_000_000_000_000_000
ORDERS = [(50, b"A", b"B", 9, 4500_25, 3), (51, b"A", b"A", 10, 4500_50, 2), (53, b"C", b"B", 9, 4500_25, 3)]
"""Sequence number, action, side, order, price in cents, lots. Another instrument had packet 52."""


def dbn() -> bytes:
    """ORDERS as a DBN file, version 1, of ESH4."""
    symbol = b"ESH4".ljust(22, b"\0")
    metadata = b"GLBX.MDP3".ljust(16, b"\0") + bytes(2 + 32 + 3 + 47 + 4 * 4)
    metadata += struct.pack("<I", 1) + symbol + struct.pack("<I", 1) + bytes(8) + b"5".ljust(22, b"\0")
    rows = [
        struct.pack(
            "<BBHIQQqIBBccQiI",
            *(
                14,
                160,
                1,
                5,
                START + seq,
                order,
                cents * 10**7,
                lots,
                128,
                0,
                action,
                side,
                START + seq,
                0,
                seq,
            ),
        )
        for seq, action, side, order, cents, lots in ORDERS
    ]
    return b"DBN\1" + struct.pack("<I", len(metadata)) + metadata + b"".join(rows)


def stored_orders(archive_uri: str) -> list[tuple[int, int, int, int]]:
    rows = open_archive(archive_uri).read("mbo", columns=["seq", "order_id", "price", "size"]).to_pylist()
    return [(row["seq"], row["order_id"], row["price"], row["size"]) for row in rows]


EXPECTED = [(seq, order, cents * 10**7, lots) for seq, _, _, order, cents, lots in ORDERS]


def wait_for_all_packets(spool: Path) -> None:
    """Until the spool holds packets, and for a while no more have come."""
    sizes: list[int] = []

    def still() -> bool:
        sizes.append(sum(path.stat().st_size for path in spool.glob("*.spool")))
        return sizes[-1] > 200 and len(sizes) > 25 and len(set(sizes[-25:])) == 1

    wait_until("packets", still)


def ticks(home, *arguments):
    """`tickworks ticks ...` in the folder of the short run: its stdout."""
    result = home("ticks", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_tables_of_a_run_are_shown(short_run):
    shown = json.loads(ticks(short_run, "show", "--json"))
    rows = {table["table"]: table["rows"] for table in shown["tables"]}
    facts = short_run.latest().facts
    research = [facts["research"][stage]["result"]["rows"] for stage in ("features", "backtest")]
    assert rows.items() >= {**facts["ingest"]["rows"], **research[0], **research[1]}.items()
    assert set(rows) == {*facts["ingest"]["rows"], *research[0], *research[1], "models", "scores", "learning"}
    assert shown["data_commit"] == facts["data_commit"]


def test_rows_go_to_stdout_and_nothing_else_does(short_run):
    result = short_run(
        "ticks", "show", "--table", "trades", "--limit", "3", "--csv", "--columns", "seq,price"
    )
    header, *rows = result.stdout.splitlines()
    assert (header, len(rows)) == ("seq,price", 3)
    assert "rows" in result.stderr


def test_the_quality_of_a_run_without_losses_is_told(short_run):
    (report,) = [json.loads(line) for line in ticks(short_run, "quality", "--json").splitlines()]
    assert report["lost_something"] is False


def test_the_book_at_the_end_is_drawn_uncrossed(short_run):
    lines = ticks(short_run, "book", "--symbol", "ESH6", "--levels", "3").splitlines()
    assert len(lines) > 6
    assert any("ESH6" in line for line in lines)


def test_the_archive_of_a_run_is_whole_and_can_be_asked(short_run):
    assert ticks(short_run, "verify") == ""
    answer = json.loads(ticks(short_run, "sql", "--json", "SELECT count(*) AS n FROM packets"))
    assert answer == {"n": short_run.latest().facts["ingest"]["packets"]}


def test_a_replay_in_one_shell_is_ingested_in_another(tickworks):
    (tickworks.folder / "day.dbn").write_bytes(dbn())
    options = ("--env", tickworks.environment, "--archive", "archive", "--spool", "spool")
    with tickworks.started("ingest", *options) as ingest:
        assert "listening" in ingest.stderr.readline()
        sent = tickworks("replay", "day.dbn", "--env", tickworks.environment, "--speed", "full")
        assert sent.returncode == 0, sent.stderr
        assert sent.stdout.startswith("sent ")
        wait_for_all_packets(tickworks.folder / "spool")
        ingest.send_signal(signal.SIGTERM)
        out, errors = ingest.communicate(timeout=PATIENCE_S)
    assert ingest.returncode == 0, errors
    summary = json.loads(out)
    assert summary["lost"] == 0
    assert summary["rows"]["mbo"] == len(ORDERS)
    assert stored_orders(str(tickworks.folder / "archive")) == EXPECTED


def test_a_killed_ingest_is_finished_without_the_feed(tickworks):
    (tickworks.folder / "day.dbn").write_bytes(dbn())
    options = ("--env", tickworks.environment, "--archive", "archive", "--spool", "spool")
    with tickworks.started("ingest", *options) as ingest:
        assert "listening" in ingest.stderr.readline()
        assert (
            tickworks("replay", "day.dbn", "--env", tickworks.environment, "--speed", "full").returncode == 0
        )
        wait_for_all_packets(tickworks.folder / "spool")
        os.kill(ingest.pid, signal.SIGKILL)
        ingest.wait(PATIENCE_S)
    assert open_archive(str(tickworks.folder / "archive")).tables() == []
    for recovered in (1, 0):  # finishing is safe to repeat
        finished = tickworks("ingest", "--finish", *options)
        assert finished.returncode == 0, finished.stderr
        assert json.loads(finished.stdout)["recovered_segments"] == recovered
        assert stored_orders(str(tickworks.folder / "archive")) == EXPECTED


def test_two_ingests_of_one_channel_are_refused(tickworks):
    options = ("--env", tickworks.environment, "--archive", "archive")
    with tickworks.started("ingest", *options, "--spool", "spool") as ingest:
        assert "listening" in ingest.stderr.readline()
        same_spool = tickworks("ingest", *options, "--spool", "spool")
        same_port = tickworks("ingest", *options, "--spool", "another")
        ingest.send_signal(signal.SIGINT)
        assert ingest.wait(PATIENCE_S) == 0
    for refused, words in ((same_spool, "another ingest uses"), (same_port, "in use")):
        assert refused.returncode == 1
        assert words in refused.stderr
        assert refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("env", "list"), ("env", "show", "local"), ("env", "check", "local")])
def test_environments_are_shown_from_any_folder(arguments, tickworks):
    result = tickworks(*arguments)
    assert result.returncode == 0, result.stderr
    assert "local" in result.stdout
    assert result.stderr == ""


def test_a_reader_that_stops_early_gets_no_traceback(short_run):
    """As in `tickworks ticks show ... | head -1`."""
    command = f"{short_run.command} ticks show --table mbo --limit 0 --csv | head -1"
    result = subprocess.run(
        ["bash", "-c", command], cwd=short_run.folder, capture_output=True, text=True, check=False
    )
    assert result.stdout.startswith("ts_event")
    assert "Traceback" not in result.stderr
