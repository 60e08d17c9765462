import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from operations.ticks import aligned, decimal, parse_time, ticks
from workloads.ticks.archive import DatasetPartition, Partition, RunPartition, open_archive
from workloads.ticks.codes import Action, CleaningRule, EventFlag, RowFlag, Side
from workloads.ticks.schema import TABLES

NANO = 1_000_000_000
MONDAY = Partition("XCME", date(2026, 1, 5), 310)
WEDNESDAY = Partition("XCME", date(2026, 1, 7), 310)
START = int(np.datetime64("2026-01-05T14:30", "ns").astype(np.int64))
LATER = START + 2 * 86_400 * NANO
IDENTITY = {"venue": "XCME", "channel": 310, "epoch": 2026010400, "msg_index": 0, "entry_index": 0}


def table(name: str, *rows: dict) -> pa.Table:
    return pa.Table.from_pylist([{**IDENTITY, **row} for row in rows], schema=TABLES[name].arrow)


def sent(seq: int, ts: int = START) -> dict:
    return {"seq": seq, "ts_event": ts + seq, "ts_sent": ts + seq, "ts_recv": ts + seq + 1000}


def order(seq: int, order_id: int, price: float, size: int, side: Side, action=Action.NEW, **more) -> dict:
    return {
        **sent(seq),
        "instrument_id": 1,
        "order_id": order_id,
        "priority": seq,
        "price": int(price * NANO),
        "size": size,
        "side": side,
        "action": action,
        "event_flags": EventFlag.END,
        "row_flags": 0,
        **more,
    }


ORDERS = [
    order(1, 11, 4810.25, 3, Side.BUY),
    order(2, 12, 4810.25, 2, Side.BUY),
    order(3, 13, 4810.5, 7, Side.SELL),
    order(4, 14, 4811.0, 1200, Side.SELL),
    order(5, 15, 4810.0, 1, Side.BUY, instrument_id=2),
    order(6, 13, 4810.5, 4, Side.SELL, Action.CHANGE),
    order(7, 12, 4810.25, 2, Side.BUY, Action.DELETE, row_flags=RowFlag.STALE | RowFlag.FEED_B),
]
DEFINITION = {
    **sent(0),
    "instrument_id": 1,
    "symbol": "ESH6",
    "currency": "USD",
    "tick": NANO // 4,
    "update_action": ord("A"),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> str:
    """Two trading dates of one channel, with Tuesday missing and packets 8 and 9 lost."""
    archive = open_archive(str(tmp_path_factory.mktemp("archive")))
    archive.commit("definitions", MONDAY, {"d": table("definitions", DEFINITION)})
    archive.commit("mbo", MONDAY, {"m": table("mbo", *ORDERS)})
    archive.commit("mbo", WEDNESDAY, {"m": table("mbo", {**ORDERS[0], **sent(20, LATER), "order_id": 20})})
    packets = [
        {**sent(seq), "ts_recv_a": START + seq, "ts_recv_b": START + seq + skew, "bytes": 100, "messages": 2}
        for seq, skew in ((1, 1000), (2, 3000), (3, -500))
    ]
    packets += [{**sent(4), "ts_recv_a": None, "ts_recv_b": START, "bytes": 100, "messages": 1}]
    archive.commit("packets", MONDAY, {"p": table("packets", *packets)})
    lost = {"first_seq": 8, "last_seq": 9, "reason": "passed", "outcome": "lost", "ts_before": START}
    archive.commit(
        "gaps",
        MONDAY,
        {"g": table("gaps", lost, {**lost, "first_seq": 12, "last_seq": 12, "outcome": "late"})},
    )
    feeds = [{"feed": feed, "packets": 4, "kernel_drops": 5, "malformed": 0} for feed in ("A", "A", "B")]
    archive.commit("feeds", MONDAY, {"f": table("feeds", *feeds)})
    return archive.uri


def runner(uri: str):
    def run(command: str, *arguments: str) -> Result:
        result = CliRunner().invoke(ticks, [command, "--archive", uri, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def run(archive: str):
    return runner(archive)


@pytest.fixture(scope="module")
def research(tmp_path_factory):
    """Commands on an archive with market rows, two datasets and a run of training."""
    archive = open_archive(str(tmp_path_factory.mktemp("research")))
    archive.commit("mbo", MONDAY, {"m": table("mbo", *ORDERS)})
    row = {"instrument_id": 1, "ts": START, "segment": 0, "rules": 0, "bid_price": 4810 * NANO}
    tensors = [
        {**row, "frame": [0.5] * 80},
        {**row, "ts": START + NANO, "segment": -1, "rules": CleaningRule.STALE | CleaningRule.GAP},
    ]
    for dataset, days in (("book-a", (MONDAY, WEDNESDAY)), ("book-b", (MONDAY,))):
        for day in days:
            partition = DatasetPartition(dataset, day.date)
            archive.commit("book_tensors", partition, {"t": derived("book_tensors", *tensors)})
    count = {"source": "mbo", "rule": "rows", "rows": 8, "excluded": 0}
    partition = DatasetPartition("book-a", MONDAY.date)
    archive.commit("cleaning", partition, {"c": derived("cleaning", count)})
    model = {
        "model": "vit", "as_of": START, "config": "{}", "inputs": "{}", "code": "0", "seed": 7,
        "parameters": b"\x01\xff" * 40, "sha256": "0",
    }  # fmt: skip
    archive.commit("models", RunPartition("vit-1"), {"m": derived("models", model)})
    order = {
        "strategy": "vit", "order": 1, "instrument_id": 1, "ts_decision": START, "ts_arrival": START + 5,
        "side": Side.SELL, "size": 2, "decision_mid": 4810 * NANO, "filled": 2, "reason": "alpha",
    }  # fmt: skip
    archive.commit("orders", RunPartition("backtest-1"), {"o": derived("orders", order)})
    return runner(archive.uri)


def derived(name: str, *rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=TABLES[name].arrow)


def test_show_lists_the_tables_with_rows_and_time_span(run):
    lines = run("show").stdout.splitlines()
    (mbo,) = [line.split() for line in lines if line.startswith("mbo")]
    assert mbo[:4] == ["mbo", "2", "2", "8"]
    assert mbo[5:] == ["2026-01-05T14:30:00.000000001Z", "2026-01-07T14:30:00.000000020Z"]
    assert re.search(r"data commit [0-9a-f]{20}$", lines[-1])


def test_show_as_json_carries_the_data_commit(run, archive: str):
    shown = json.loads(run("show", "--json").stdout)
    assert shown["data_commit"] == open_archive(archive).data_commit().id
    assert {row["table"]: row["rows"] for row in shown["tables"]}["gaps"] == 2


def test_show_has_a_line_for_each_dataset_and_run(research):
    lines = research("show").stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:-1]] == [
        ["mbo", "1", "1", "7"],
        ["book_tensors", "dataset=book-a", "2", "2"],
        ["book_tensors", "dataset=book-b", "1", "1"],
        ["cleaning", "dataset=book-a", "1", "1"],
        ["models", "run=vit-1", "1", "1"],
        ["orders", "run=backtest-1", "1", "1"],
    ]
    (tensors, _, cleaning, models, orders) = (line.split()[6:] for line in lines[2:-1])
    assert tensors == ["2026-01-05T14:30:00.000000000Z", "2026-01-05T14:30:01.000000000Z"]
    assert cleaning == []
    assert models == ["2026-01-05T14:30:00.000000000Z"] * 2
    assert orders == ["2026-01-05T14:30:00.000000000Z", "2026-01-05T14:30:00.000000005Z"]
    of = {row["table"]: row["of"] for row in json.loads(research("show", "--json").stdout)["tables"]}
    assert (of["mbo"], of["models"]) == (None, "run=vit-1")


def test_derived_rows_are_shown_with_rules_by_name_and_frames_by_length(research):
    lines = research("show", "--table", "book_tensors", "--limit", "2").stdout.splitlines()
    assert "80 values" in lines[1]
    assert re.search(r"-1 +stale\+gap +4810 +book-a", lines[2])
    assert lines[1].split()[-2:] == ["book-a", "2026-01-05"]
    (row,) = research("show", "--table", "book_tensors", "--json", "--limit", "1").stdout.splitlines()
    assert json.loads(row)["frame"] == [0.5] * 80
    (order,) = research("show", "--table", "orders", "--json").stdout.splitlines()
    assert (json.loads(order)["side"], json.loads(order)["decision_mid"]) == ("sell", "4810")


def test_bytes_are_shown_by_their_number_and_piped_in_hexadecimal(research):
    assert "80 bytes" in research("show", "--table", "models").stdout
    shown = research("show", "--table", "models", "--csv", "--columns", "parameters,run").stdout
    assert shown == f"parameters,run\n{'01ff' * 40},vit-1\n"
    assert research("sql", "--csv", "SELECT parameters FROM models").stdout.split()[1] == "01ff" * 40


def test_sql_joins_market_rows_derived_rows_and_results(research):
    statement = """
        SELECT dataset, run, count(*) AS n FROM book_tensors JOIN models ON ts = as_of
        WHERE date = DATE '2026-01-05' GROUP BY ALL ORDER BY dataset"""
    assert research("sql", "--csv", statement).stdout.splitlines() == [
        "dataset,run,n",
        "book-a,vit-1,1",
        "book-b,vit-1,1",
    ]


def test_verify_and_quality_take_derived_tables_as_they_are(research):
    assert research("verify").exit_code == 0
    assert "book_tensors" not in research("quality").stdout


def test_rows_are_shown_with_names_and_exact_prices(run):
    result = run("show", "--table", "mbo", "--limit", "2", "--columns", "ts_sent,side,action,price,row_flags")
    assert result.stdout.splitlines() == [
        "ts_sent                         side  action    price  row_flags",
        "2026-01-05T14:30:00.000000001Z  buy   new     4810.25",
        "2026-01-05T14:30:00.000000002Z  buy   new     4810.25",
    ]
    assert "2 of 8 rows" in result.stderr


def test_columns_without_values_are_left_out_on_a_terminal(run):
    header = run("show", "--table", "definitions").stdout.splitlines()[0].split()
    assert "symbol" in header
    assert "strike" not in header


def test_rows_can_be_piped_as_csv_and_json(run):
    csv = run("show", "--table", "mbo", "--limit", "0", "--csv", "--columns", "seq,price,row_flags").stdout
    assert csv.splitlines()[0] == "seq,price,row_flags"
    assert csv.splitlines()[7] == "7,4810.25,stale+feed_b"
    assert len(csv.splitlines()) == 9
    rows = [json.loads(line) for line in run("show", "--table", "gaps", "--json").stdout.splitlines()]
    assert [(row["first_seq"], row["outcome"]) for row in rows] == [(8, "lost"), (12, "late")]


def test_an_unknown_table_or_column_is_wrong_usage(run):
    assert run("show", "--table", "mbq").exit_code == 2
    result = run("show", "--table", "mbo", "--columns", "prise")
    assert result.exit_code == 2
    assert "mbo has no column prise" in result.stderr


def test_quality_tells_shares_skew_gaps_drops_and_missing_dates(run):
    result = run("quality")
    assert result.exit_code == 3
    for text in (
        "XCME 2026-01-05 channel 310",
        "4, 7 messages, 400 bytes",
        "A 50.00% (alone 0.00%), B 50.00% (alone 25.00%)",
        "largest 3.0 µs",
        "2: 2 packets lost, 1 came late",
        "epoch 2026010400 seq 8-9 lost (passed)",
        "feed A    8 packets, 0 duplicates, 0 late, 10 dropped by our kernel",
        "7 rows, 1 stale, 1 feed_b",
        "1 of 1,380 minutes with packets (0.1%), 2026-01-04T23:00Z to 2026-01-05T22:00Z",
        "missing: XCME channel 310: nothing of trading date 2026-01-06",
    ):
        assert text in result.stdout


def test_quality_as_json_is_one_object_per_partition(run):
    monday, wednesday = map(json.loads, run("quality", "--json").stdout.splitlines())
    assert (monday["lost_packets"], monday["packets"]["skew_max"]) == (2, 3000)
    assert monday["session"]["minutes"] == 23 * 60
    assert (wednesday["packets"], wednesday["gaps"], wednesday["lost_something"]) == (None, [], False)


def test_quality_of_an_archive_without_losses_ends_with_0(tmp_path: Path):
    archive = open_archive(str(tmp_path))
    archive.commit("mbo", MONDAY, {"m": table("mbo", *ORDERS)})
    assert CliRunner().invoke(ticks, ["quality", "--archive", str(tmp_path)]).exit_code == 0


def test_what_came_late_is_not_lost_and_quality_ends_with_0(tmp_path: Path):
    archive = open_archive(str(tmp_path))
    lost = {"first_seq": 8, "last_seq": 2**32 - 1, "reason": "passed", "outcome": "lost"}
    late = [{**lost, "outcome": "late", "last_seq": 9}, {**lost, "outcome": "late", "first_seq": 10}]
    archive.commit("gaps", MONDAY, {"g": table("gaps", lost, late[0])})
    result = CliRunner().invoke(ticks, ["quality", "--archive", str(tmp_path)])
    assert result.exit_code == 3
    assert f"{2**32 - 10:,} packets lost, 2 came late" in result.stdout
    archive.commit("gaps", MONDAY, {"late": table("gaps", late[1])})
    result = CliRunner().invoke(ticks, ["quality", "--archive", str(tmp_path)])
    assert result.exit_code == 0
    assert ": 0 packets lost" in result.stdout


def test_what_our_kernel_dropped_and_the_other_feed_brought_is_no_loss(tmp_path: Path):
    archive = open_archive(str(tmp_path))
    archive.commit("feeds", MONDAY, {"f": table("feeds", {"feed": "A", "kernel_drops": 5, "malformed": 0})})
    result = CliRunner().invoke(ticks, ["quality", "--archive", str(tmp_path)])
    assert result.exit_code == 0
    assert "5 dropped by our kernel" in result.stdout


def test_the_book_is_drawn_as_of_a_time(run):
    at = "2026-01-05T14:30:00.000000004Z"
    lines = run("book", "--symbol", "ESH6", "--at", at).stdout.splitlines()
    assert lines[0] == f"ESH6  XCME channel 310  {at}"
    assert [re.sub(r"[ █]+", " ", line).strip() for line in lines[2:]] == [
        "4811.00 1,200 1",
        "4810.50 7 1",
        "2 5 4810.25",
        "spread 0.25 USD",
    ]


def test_the_newest_book_is_the_default_and_says_that_it_is_stale(run, tmp_path: Path):
    archive = open_archive(str(tmp_path))
    archive.commit("definitions", MONDAY, {"d": table("definitions", DEFINITION)})
    archive.commit("mbo", MONDAY, {"m": table("mbo", *ORDERS)})
    result = CliRunner().invoke(
        ticks, ["book", "--archive", str(tmp_path), "--symbol", "ESH6", "--levels", "1"]
    )
    assert [re.sub(r"[ █]+", " ", line).strip() for line in result.stdout.splitlines()[2:]] == [
        "4810.50 4 1",
        "1 3 4810.25",
        "spread 0.25 USD",
    ]
    assert "stale" in result.stderr
    assert result.stdout.splitlines()[0].endswith("STALE: packets were lost before")


def test_a_stale_book_that_is_crossed_is_not_called_an_incomplete_event(tmp_path: Path):
    archive = open_archive(str(tmp_path))
    archive.commit("definitions", MONDAY, {"d": table("definitions", DEFINITION)})
    rows = [ORDERS[0], order(3, 13, 4810.0, 7, Side.SELL)]
    archive.commit("mbo", MONDAY, {"m": table("mbo", *rows)})
    show = ["book", "--archive", str(tmp_path), "--symbol", "ESH6"]
    result = CliRunner().invoke(ticks, show)
    assert "crossed" in result.stderr
    assert "STALE" not in result.stdout
    stale = order(4, 14, 4811.0, 1, Side.SELL, row_flags=RowFlag.STALE)
    archive.commit("mbo", MONDAY, {"later": table("mbo", stale)})
    result = CliRunner().invoke(ticks, show)
    assert "STALE" in result.stdout.splitlines()[0]
    assert "crossed" not in result.stderr


def test_orders_rest_in_the_book_through_the_trading_week(run):
    lines = run("book", "--symbol", "ESH6").stdout.splitlines()
    assert lines[0].endswith("2026-01-07T14:30:00.000000020Z")
    assert re.sub(r"[ █]+", " ", lines[4]).strip() == "2 6 4810.25"


def test_an_unknown_symbol_is_told_with_the_known_ones(run):
    result = run("book", "--symbol", "NQH6")
    assert result.exit_code == 1
    assert "known: 1 ESH6 from 2026-01-05" in result.stderr
    assert run("book", "--symbol", "ESH6", "--at", "noon").exit_code == 2


@pytest.mark.parametrize("symbol", ["esh6", "ESH66", "Esh6"])
def test_a_symbol_that_is_nearly_right_is_answered_with_the_right_one(run, symbol: str):
    result = run("book", "--symbol", symbol)
    assert result.exit_code == 1
    assert result.stderr.endswith("did you mean ESH6?\n")


@pytest.mark.parametrize("name", ["mbo", "definitions", "gaps", "packets", "feeds"])
@pytest.mark.parametrize("format", [[], ["--csv"], ["--json"]])
def test_sql_shows_every_column_of_every_table_with_times_in_nanoseconds(run, name: str, format: list[str]):
    result = run("sql", *format, f"SELECT * FROM {name}")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) >= (1 if format == ["--json"] else 2)
    if name == "mbo":
        assert "2026-01-05T14:30:00.000000001Z" in result.stdout


def test_sql_times_without_a_zone_carry_no_z_and_equal_names_are_kept_apart(run):
    result = run("sql", "--csv", "SELECT TIMESTAMP '2026-01-05 14:30:00' AS a, 2 AS a, NULL::TIMESTAMP AS b")
    assert result.stdout == "a,a_2,b\n2026-01-05T14:30:00.000000000,2,\n"


@pytest.mark.parametrize(
    "statement",
    [
        "COPY mbo TO '{folder}/mbo.csv'",
        "EXPORT DATABASE '{folder}/all'",
        "ATTACH '{folder}/new.db'",
        "SET enable_external_access = true",
        "SELECT * FROM read_csv('/etc/hostname')",
    ],
)
def test_sql_reads_the_tables_and_nothing_else(run, tmp_path: Path, statement: str):
    result = run("sql", statement.format(folder=tmp_path))
    assert result.exit_code == 1
    assert "only reads the tables" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_sql_sees_one_view_per_table_with_its_trading_date(run):
    statement = (
        "SELECT date, count(*) AS n, max(price) AS high FROM mbo "
        "WHERE venue = 'XCME' GROUP BY date ORDER BY date"
    )
    assert run("sql", statement).stdout.splitlines() == [
        "date        n           high",
        "2026-01-05  7  4811000000000",
        "2026-01-07  1  4810250000000",
    ]
    assert run("sql", "--csv", "SELECT 1 AS a, NULL AS b").stdout == "a,b\n1,\n"
    assert run("sql", "--limit", "1", "SELECT seq FROM mbo ORDER BY seq").stdout == "seq\n  1\n"


def test_a_wrong_statement_is_one_line_with_the_tables(run):
    result = run("sql", "SELECT * FROM mbq")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "tables: mbo, definitions, gaps, packets, feeds" in result.stderr


def test_verify_ends_with_3_when_a_file_is_damaged_and_with_0_for_an_orphan(tmp_path: Path):
    archive = open_archive(str(tmp_path))
    archive.commit("mbo", MONDAY, {"m": table("mbo", *ORDERS)})
    path = Path(archive.paths("mbo")[0])
    path.with_name("left.parquet").write_bytes(b"half")
    result = CliRunner().invoke(ticks, ["verify", "--archive", str(tmp_path)])
    assert (result.exit_code, result.stdout.split(":")[0]) == (0, "orphan")
    path.write_bytes(b"")
    result = CliRunner().invoke(ticks, ["verify", "--archive", str(tmp_path)])
    assert (result.exit_code, result.stdout.split(":")[0]) == (3, "damaged")


@pytest.mark.parametrize("command", [["show"], ["quality"], ["book", "--symbol", "ESH6"]])
def test_an_empty_archive_is_told(tmp_path: Path, command: list[str]):
    result = CliRunner().invoke(ticks, [*command, "--archive", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "tickworks run" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_an_option_the_newest_run_is_read_and_else_the_local_archive(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "var/archive" in CliRunner().invoke(ticks, ["show"]).stderr
    open_archive("var/runs/latest/archive").commit("mbo", MONDAY, {"m": table("mbo", *ORDERS)})
    assert "var/runs/latest/archive" in CliRunner().invoke(ticks, ["show"]).stdout


@pytest.mark.parametrize("command", ["show", "quality", "book", "verify", "sql"])
def test_every_help_has_an_example_and_the_exit_statuses(command: str):
    text = CliRunner().invoke(ticks, [command, "--help"]).stdout
    assert f"tickworks ticks {command}" in text
    assert "Exit status" in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from operations.ticks import ticks; ticks(['--help'], standalone_mode=False);"
        "print(sorted({'numpy', 'pyarrow', 'duckdb', 'pandas', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (-1, "-0.000000001"), (4810_250_000_000, "4810.25"), (-37_630_000_000, "-37.63")],
)
def test_decimals_are_exact(nano: int, text: str):
    assert decimal(nano) == text


def test_times_are_read_to_the_nanosecond():
    assert parse_time("1970-01-01T00:00:01.000000002Z") == NANO + 2


def test_numbers_stand_right_and_text_left():
    rows = [{"a": 1, "b": "x"}, {"a": None, "b": "yy"}, {"a": 200, "b": None}]
    assert aligned(["a", "b"], rows) == ["  a  b", "  1  x", "     yy", "200"]
