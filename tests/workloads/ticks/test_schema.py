"""The tables' schemas and the page that describes them."""

import re

import pyarrow as pa
import pytest

from tests.conftest import ROOT
from workloads.ticks import codes
from workloads.ticks.partitions import DEPTH
from workloads.ticks.schema import (
    DATASET_TABLES,
    IDENTITY,
    MARKET_TABLES,
    RUN_TABLES,
    TABLES,
    Layout,
)


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


def test_the_times_of_research_are_in_nanoseconds_utc_too():
    for name, column in (("models", "as_of"), ("book_tensors", "ts"), ("labels", "ts"), ("ledger", "ts")):
        assert TABLES[name].arrow.field(column).type == pa.timestamp("ns", tz="UTC")


def test_every_table_has_one_of_three_layouts():
    assert sorted([*MARKET_TABLES, *DATASET_TABLES, *RUN_TABLES]) == sorted(TABLES)
    assert set(DEPTH) == set(Layout)
    assert {"mbo", "definitions", "gaps", "feeds"} <= set(MARKET_TABLES)
    assert set(DATASET_TABLES) == {"bars", "book_tensors", "labels", "cleaning", "flagged"}
    assert set(RUN_TABLES) == {"models", "scores", "learning", "orders", "fills", "ledger"}


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    """Sections of the page on the tables, by heading."""
    sections = (ROOT / "docs/tables.md").read_text().split("\n## ")[1:]
    return {section.partition("\n")[0]: section.partition("\n")[2] for section in sections}


def test_the_page_on_the_tables_names_every_table_and_column_and_no_other(page):
    assert list(page) == [*TABLES, "Codes"]
    for name, table in TABLES.items():
        listed = page[name].split("\n\n")[1]
        assert re.findall(r"`(\w+)`", listed) == table.arrow.names


@pytest.mark.parametrize("name", [*DATASET_TABLES, *RUN_TABLES])
def test_the_page_explains_each_column_of_derived_and_result_tables(page, name):
    first_table = re.search(r"\| Column \| Meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", page[name] + "\n")[1]
    cells = [line.split(" | ")[0] for line in first_table.splitlines()]
    assert [column for cell in cells for column in re.findall(r"`(\w+)`", cell)] == TABLES[name].arrow.names


@pytest.mark.parametrize("flags", [codes.CleaningRule, codes.RowFlag])
def test_the_page_lists_the_bits_of_our_flags(page, flags):
    for flag in flags:
        assert f" {flag.value} {flag.name.lower().replace('_', ' ')}" in page["Codes"].lower()


def test_the_page_links_every_table_under_its_kind():
    text = (ROOT / "docs/tables.md").read_text()
    for kind, tables in (("Market", MARKET_TABLES), ("Derived", DATASET_TABLES), ("Results", RUN_TABLES)):
        line = re.search(rf"^\| {kind}: .*$", text, re.M)[0]
        assert re.findall(r"\[(\w+)\]\(#\1\)", line) == list(tables)


def test_flag_bits_do_not_overlap():
    for flags in (codes.RowFlag, codes.EventFlag, codes.CleaningRule):
        assert sum(flags) == sum({int(flag) for flag in flags})
        assert all(int(flag).bit_count() == 1 for flag in flags)
