"""The tables' schemas and the page that describes them."""

import re

import pyarrow as pa
import pytest

from tests.conftest import ROOT
from workloads.ticks import codes
from workloads.ticks.schema import IDENTITY, TABLES


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_dictionary_columns_are_columns_of_the_table(table):
    assert set(table.dictionary) <= set(table.arrow.names)


@pytest.mark.parametrize("name", ["mbo", "mbp", "trades", "trade_orders", "statistics", "limits", "status"])
def test_market_rows_carry_their_identity_and_three_times(name):
    names = TABLES[name].arrow.names
    assert names[:3] == ["ts_event", "ts_sent", "ts_recv"]
    assert names[3:9] == [field.name for field in IDENTITY]


def test_every_time_is_in_nanoseconds_utc():
    times = [f for t in TABLES.values() for f in t.arrow if f.name.startswith("ts_")]
    assert times
    assert {f.type for f in times} == {pa.timestamp("ns", tz="UTC")}


def test_the_page_on_the_tables_names_every_table_and_column_and_no_other():
    text = (ROOT / "docs/tables.md").read_text()
    for name, table in TABLES.items():
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        listed = section.split("\n\n")[1]
        assert re.findall(r"`(\w+)`", listed) == table.arrow.names


def test_flag_bits_do_not_overlap():
    for flags in (codes.RowFlag, codes.EventFlag):
        assert sum(flags) == sum({int(flag) for flag in flags})
        assert all(int(flag).bit_count() == 1 for flag in flags)
