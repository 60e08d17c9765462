"""Paths of partitions: what is written is read back, and nothing else is a partition."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.ticks.partitions import (
    DEPTH,
    NAME_RULE,
    DatasetPartition,
    Partition,
    RunPartition,
    parse_partition,
)
from workloads.ticks.schema import TABLES

names = st.from_regex(NAME_RULE, fullmatch=True)
dates = st.dates(min_value=date(1970, 1, 1))
venues = st.from_regex(r"[A-Z0-9]{4}", fullmatch=True)
partitions = st.one_of(
    st.builds(Partition, venues, dates, st.integers(0, 65_535)),
    st.builds(DatasetPartition, names, dates),
    st.builds(RunPartition, names),
)
OF = {Partition: "mbo", DatasetPartition: "bars", RunPartition: "scores"}


@given(partitions)
def test_a_path_is_read_back_as_the_partition_that_it_came_from(partition):
    table = OF[type(partition)]
    assert parse_partition(table, partition.path) == type(partition).parse(partition.path) == partition
    assert partition.path.count("/") == DEPTH[TABLES[table].layout] - 1


@given(partitions, partitions)
def test_different_partitions_have_different_paths(one, other):
    assert (one == other) == (one.path == other.path)


@given(partitions)
def test_a_table_takes_the_paths_of_its_own_kind_only(partition):
    for kind, table in OF.items():
        if kind is not type(partition):
            with pytest.raises(ValueError, match="is no partition; expected"):
                parse_partition(table, partition.path)


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "a=b\n", "ä", "../mbo"])
def test_a_name_that_a_path_could_not_carry_is_refused(name):
    with pytest.raises(ValueError, match="no name of a dataset"):
        DatasetPartition(name, date(2026, 1, 5))
    with pytest.raises(ValueError, match="no name of a run"):
        RunPartition(name)


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("mbo", "venue=XCME/date=2026-01-05"),
        ("mbo", "venue=XCME/date=2026-13-05/channel=310"),
        ("mbo", "venue=XCME/date=2026-01-05/channel=310/"),
        ("bars", "dataset=a"),
        ("bars", "dataset=/date=2026-01-05"),
        ("bars", "dataset=a/date=20260105"),
        ("scores", "run="),
        ("scores", "run=a/date=2026-01-05"),
        ("scores", "Run=a"),
    ],
)
def test_a_path_that_is_nearly_right_is_refused(table, path):
    with pytest.raises(ValueError, match=r"is no partition|month must be|out of range"):
        parse_partition(table, path)


def test_partitions_of_a_kind_are_in_order_of_time_and_name():
    days = [date(2026, 1, 5), date(2026, 1, 6)]
    assert sorted(DatasetPartition(name, day) for day in reversed(days) for name in "ba") == [
        DatasetPartition(name, day) for name in "ab" for day in days
    ]
