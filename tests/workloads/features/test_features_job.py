"""The features job on simulated sessions: against the truth, twice, killed, cut, and with another future."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.workloads.features.sessions import CHANNEL, VENUE, archive_of, ns, read, rows, session_of
from workloads.exchange.simulator import SimulatorConfig
from workloads.features import job
from workloads.features.config import FeaturesConfig
from workloads.features.events import events
from workloads.features.job import FeaturesError, run
from workloads.features.tensors import frames
from workloads.runtime.jobs import JobConfigError, config_json, events_to, parse_config
from workloads.ticks.archive import ArchiveError, DatasetPartition, Partition, open_archive
from workloads.ticks.codes import Action, CleaningRule, RowFlag, Side
from workloads.ticks.datasets import missing_parts
from workloads.ticks.order_book import OrderBooks, event_ends
from workloads.ticks.schema import DATASET_TABLES, MARKET_TABLES

SECOND = 1_000_000_000
STEP = 250_000_000
WHERE = Partition(VENUE, date(2026, 1, 5), CHANNEL)
MARKED = ("mbp", "trades", "statistics", "limits", "status")


@pytest.fixture(scope="module")
def session():
    config = SimulatorConfig(seed=3, duration_ns=60 * SECOND, snapshot_interval_ns=2 * SECOND)
    return session_of(config)


@pytest.fixture(scope="module")
def market(session, tmp_path_factory):
    return archive_of(tmp_path_factory.mktemp("market"), session[0])


@pytest.fixture(scope="module")
def config(market):
    return FeaturesConfig(market.uri)


@pytest.fixture(scope="module")
def made(market, config):
    return run(market, config)


def copy_of(archive, folder, change=lambda table, rows: rows):
    """The same market tables, changed, in another archive."""
    copy = open_archive(str(folder))
    for table in MARKET_TABLES:
        for partition in archive.partitions(table):
            rows = change(table, archive.read(table, partition))
            copy.commit(table, partition, {"all": rows})
    return copy


def derived(archive, summary, table):
    return archive.read(table, DatasetPartition(summary.dataset, WHERE.date))


def of(table, instrument):
    return table.filter(pc.equal(table["instrument_id"], instrument))


def test_mids_and_labels_are_those_of_the_truth(session, market, made):
    truth = session[1]
    books, labels = derived(market, made, "book_tensors"), derived(market, made, "labels")
    definitions = read(market, "definitions")
    for i, instrument in enumerate(truth.instrument_id.tolist()):
        factor = of(definitions, instrument)["display_factor"][0].as_py()
        mine = of(books, instrument)
        mid = (mine["bid_price"].to_numpy() + mine["ask_price"].to_numpy()) / 2
        steps = (ns(mine, "ts") - truth.ts_step[0]) // STEP  # that were over
        moved = np.append(0, np.cumsum(truth.moves[:, i].astype(int)))
        opening = truth.opening_bid[i] + truth.wire_tick[i] / 2
        assert len(mid) > 200
        assert np.allclose(
            mid, (opening + moved[steps] * truth.wire_tick[i]) * factor / 1e9, rtol=1e-12, atol=0
        )
        known = of(labels, instrument)
        start = (ns(known, "ts") - truth.ts_step[0]) // STEP
        expected = moved[start + 10] - moved[start]
        assert known["move"].to_pylist() == (2 * expected).tolist()
        assert known["label"].to_pylist() == np.sign(expected).tolist()


def test_orders_of_the_noise_flow_are_among_the_orders_added(session, market, made):
    truth, books = session[1], derived(market, made, "book_tensors")
    for i, instrument in enumerate(truth.instrument_id.tolist()):
        mine = of(books, instrument).slice(1)  # the first is before step 0
        step = (ns(mine, "ts") - truth.ts_step[0]) // STEP - 1
        bids, asks = mine["bid_adds"].to_numpy(), mine["ask_adds"].to_numpy()
        noise = truth.bid_adds[step, i].astype(int)
        assert (bids >= noise).all()
        assert (asks >= truth.adds[step, i] - noise).all()
        assert np.corrcoef(bids, noise)[0, 1] > 0.9


def plain_books(market, summary):
    """Every book tensor again: a dictionary of orders a row at a time, and events from the stored marks."""
    others = [read(market, table) for table in MARKED]
    mbo = read(market, "mbo")
    known, ends = ns(mbo, "ts_sent").copy(), event_ends(mbo, *others)
    later = None
    for row in range(len(known) - 1, -1, -1):
        later = known[row] if ends[row] else later
        known[row] = later
    tick = {r["instrument_id"]: r["tick"] for r in read(market, "definitions").to_pylist()}
    orders, added, row, rows = {}, {}, 0, mbo.to_pylist()
    for book in derived(market, summary, "book_tensors").to_pylist():
        ts = book["ts"].value
        while known[row] < ts:
            r = rows[row]
            key = (r["instrument_id"], r["order_id"])
            if r["action"] == Action.DELETE:
                orders.pop(key)
            else:
                orders[key] = (r["side"], r["price"], r["size"])
            if r["action"] == Action.NEW and not r["row_flags"] & RowFlag.RECOVERY:
                where = (r["instrument_id"], r["side"], r["price"], known[row] // STEP)
                added[where] = added.get(where, 0) + 1
            row += 1
        yield book, ladder(orders, added, book["instrument_id"], ts // STEP - 1, tick)


def ladder(orders, added, instrument, step, tick):
    sides = []
    for side in (Side.BUY, Side.SELL):
        sizes = {}
        for (i, _), (its, price, size) in orders.items():
            if (i, its) == (instrument, side):
                sizes.setdefault(price, []).append(size)
        prices = sorted(sizes, reverse=side == Side.BUY)[:10]
        new = [added.get((instrument, side, price, step), 0) for price in prices]
        sides.append([(p, sum(sizes[p]), len(sizes[p]), n) for p, n in zip(prices, new, strict=True)])
    mid = (sides[0][0][0] + sides[1][0][0]) / 2
    frame = np.zeros((2, 10, 4), np.float32)
    for s, levels in enumerate(sides):
        for n, (price, size, count, new) in enumerate(levels):
            away = (1, -1)[s] * (mid - price) / tick[instrument]
            frame[s, n] = away, np.log1p(float(size)), count, new
    return sides, frame


def test_frames_equal_books_of_plain_dictionaries(market, made):
    for n, (book, (sides, frame)) in enumerate(plain_books(market, made)):
        if n > 120:
            break
        names = (("bid_price", "bid_size"), ("ask_price", "ask_size"))
        for side, (price, size) in zip(sides, names, strict=True):
            assert (book[price], book[size]) == side[0][:2]
        assert np.array_equal(np.array(book["frame"], np.float32).reshape(2, 10, 4), frame)


def test_imbalance_and_volume_add_up_to_those_of_all_tops_and_trades(market, made):
    books, mbo = derived(market, made, "book_tensors"), read(market, "mbo")
    tops = OrderBooks().tops(mbo, ends=event_ends(mbo, *(read(market, t) for t in MARKED)))
    trades = read(market, "trades")
    for instrument in np.unique(tops["instrument_id"]).tolist():
        mine = of(books, instrument)
        last, total, before = ns(mine, "ts")[-1], 0, None
        for i in np.flatnonzero(tops["instrument_id"] == instrument):
            if ns(mbo, "ts_sent")[tops["row"][i]] >= last:
                break
            bid, ask = (tuple(int(tops[f"{s}_{w}"][i]) for w in ("price", "size")) for s in ("bid", "ask"))
            (b, bs), (a, as_) = before or ((-1, 0), (2**63 - 1, 0))
            bid = (-1, 0) if bid[0] == 2**63 - 1 else bid
            total += (bid[0] >= b) * bid[1] - (bid[0] <= b) * bs
            total -= (ask[0] <= a) * ask[1] - (ask[0] >= a) * as_
            before = bid, ask
        assert pc.sum(mine["ofi"]).as_py() == total
        taken = of(trades, instrument)
        in_time = ns(taken, "ts_sent") < last
        for side, name in ((Side.BUY, "buy_volume"), (Side.SELL, "sell_volume")):
            by_side = in_time & (taken["aggressor"].to_numpy() == side)
            assert pc.sum(mine[name]).as_py() == taken["size"].to_numpy()[by_side].sum()


def test_a_second_run_writes_nothing_and_says_the_same(market, config, made):
    before = market.data_commit(DATASET_TABLES)
    again = run(open_archive(market.uri), replace(config, data_commit=market.data_commit()))
    assert again == made
    assert market.data_commit(DATASET_TABLES) == before
    assert made.skipped is None
    assert made.frames == made.clean_frames == made.labels + 4 * 10 == made.rows["book_tensors"]
    assert made.segments == made.instruments == 4
    assert market.verify() == []


def test_another_config_or_other_data_is_another_dataset(market, config, made):
    at = market.data_commit()
    names = {
        job.dataset_id(replace(config, **change), at)
        for change in ({}, {"levels": 5}, {"name": "x"}, {"archive": "elsewhere"}, {"data_commit": at})
    }
    assert len(names) == 3
    assert made.dataset in names
    assert job.dataset_id(config, replace(at, id="other")) not in names


def test_a_run_that_died_anywhere_is_finished_by_the_next(market, config, made, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "PART_ROWS", {"book_tensors": 300, "labels": 200})
    whole = copy_of(market, tmp_path / "whole")
    expected = run(whole, config)
    files = [
        f for t in DATASET_TABLES for f in whole.files(t, DatasetPartition(expected.dataset, WHERE.date))
    ]
    assert len(files) > 8
    for died_at in (1, 4, len(files) - 1):
        archive, writes = copy_of(market, tmp_path / str(died_at)), 0

        def dying(*args, _archive=archive, _at=died_at, **kwargs):
            nonlocal writes
            writes += 1
            if writes == _at:
                raise KeyboardInterrupt
            return type(_archive).commit(_archive, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(archive, "commit", dying)
            with pytest.raises(KeyboardInterrupt):
                run(archive, config)
        assert run(open_archive(archive.uri), config) == expected
        day = DatasetPartition(expected.dataset, WHERE.date)
        assert sorted(f.sha256 for t in DATASET_TABLES for f in archive.files(t, day)) == sorted(
            f.sha256 for f in files
        )


@pytest.fixture(scope="module")
def wide(market, tmp_path_factory):
    """Two dates of two channels; a third of the rows each."""
    copy = open_archive(str(tmp_path_factory.mktemp("wide")))
    for table in MARKET_TABLES:
        for partition in archive_partitions(market, table):
            rows = market.read(table, partition)
            few = rows.slice(0, rows.num_rows // 3 if table == "mbo" else None)
            for day, channel in ((5, 310), (5, 320), (6, 310), (6, 320)):
                copy.commit(table, Partition(VENUE, date(2026, 1, day), channel), {"all": few})
    return copy


def archive_partitions(archive, table):
    return archive.partitions(table) if table in archive.tables() else []


def dataset_commit(archive):
    return archive.data_commit(DATASET_TABLES)


def test_a_dataset_is_whole_when_its_last_channel_and_date_is_done(wide, tmp_path):
    archive, config = copy_of(wide, tmp_path), FeaturesConfig(str(tmp_path))

    def after_a_day(function, days):
        yield function(next(iter(days)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(archive, config, after_a_day)
    (dataset,) = {p.dataset for p in archive.partitions("book_tensors", DatasetPartition)}
    half = dataset_commit(archive)
    lacking = "2 of 4 channels and dates are done (2026-01-05 XCME-310, 2026-01-05 XCME-320)"
    assert missing_parts(archive, dataset, half) == lacking
    assert run(archive, config).dataset == dataset
    assert missing_parts(archive, dataset, dataset_commit(archive)) is None
    assert missing_parts(archive, dataset, half) == lacking, "a data commit says what was there then"
    assert "none of its" in missing_parts(archive, "other", dataset_commit(archive))


@pytest.mark.parametrize(("died_at", "lacking"), [(5, "none of its"), (10, "1 of 4"), (20, "3 of 4")])
def test_a_dataset_whose_job_died_inside_a_date_is_not_whole(wide, tmp_path, monkeypatch, died_at, lacking):
    archive, writes = copy_of(wide, tmp_path), 0

    def dying(*args, **kwargs):
        nonlocal writes
        writes += 1
        if writes == died_at:
            raise KeyboardInterrupt
        return type(archive).commit(archive, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            run(archive, FeaturesConfig(str(tmp_path)))
    (dataset,) = {p.dataset for p in archive.partitions("bars", DatasetPartition)}
    assert missing_parts(archive, dataset, dataset_commit(archive)).startswith(lacking)


def test_whichever_process_is_first_the_data_commit_is_the_same(wide, tmp_path):
    commits = []
    for name, order in (("forwards", list), ("backwards", lambda items: list(items)[::-1])):
        archive = copy_of(wide, tmp_path / name)
        run(archive, FeaturesConfig(archive.uri), lambda f, items, order=order: map(f, order(items)))
        commits.append(dataset_commit(archive))
    assert commits[0] == commits[1]


def test_an_old_data_commit_gives_what_it_gave_when_it_was_new(session, made, tmp_path):
    archive = archive_of(tmp_path, session[0])
    at = archive.data_commit()
    config = FeaturesConfig(archive.uri, data_commit=at)
    assert f"gaps/{WHERE.path}" not in at.entries
    epoch = read(archive, "packets")["epoch"][0].as_py()
    lost = rows("gaps", {"epoch": epoch, "first_seq": 900, "last_seq": 902, "outcome": "lost"})
    archive.commit("gaps", WHERE, {"later": lost})
    assert run(archive, config) == made, "which was made before there was a gap"
    assert run(archive, FeaturesConfig(archive.uri)).segments > made.segments


def test_a_data_commit_that_the_archive_does_not_hold_is_refused(market, config, made):
    at = market.data_commit()
    wrong = [
        (replace(at, id="beef"), "data commit beef is not what"),
        (replace(at, entries={**at.entries, f"mbo/{WHERE.path}": 99}), "needs 99"),
        (replace(at, entries={**at.entries, f"mbo/{WHERE.path}": 0}), "the first is 1"),
        (replace(at, entries={f"mbo/{WHERE.path}": 1}), "is not what"),
        (replace(at, entries={"mbo/elsewhere": 1}), "names 'mbo/elsewhere'"),
        (replace(at, entries={"pears/x": 1}), "unknown table 'pears'"),
    ]
    for commit, message in wrong:
        with pytest.raises(ArchiveError, match=message):
            run(market, replace(config, data_commit=commit))


def test_an_instrument_whose_definition_came_late_has_no_books(market, made, tmp_path):
    ids = set(derived(market, made, "book_tensors")["instrument_id"].to_pylist())
    one = min(ids)

    def late(table, given):
        if table != "definitions":
            return given
        flags = np.where(given["instrument_id"].to_numpy() == one, RowFlag.LATE, 0).astype(np.uint8)
        return given.set_column(
            given.column_names.index("row_flags"), given.schema.field("row_flags"), pa.array(flags)
        )

    archive = copy_of(market, tmp_path, late)
    summary = run(archive, FeaturesConfig(archive.uri))
    assert set(derived(archive, summary, "book_tensors")["instrument_id"].to_pylist()) == ids - {one}


@pytest.mark.parametrize("rows", [997, 20_000])
def test_how_rows_are_cut_into_batches_makes_no_difference(market, config, made, tmp_path, monkeypatch, rows):
    monkeypatch.setattr("workloads.ticks.archive.BATCH_ROWS", rows)
    archive = copy_of(market, tmp_path)
    again = run(archive, config)
    for table in DATASET_TABLES:
        mine, theirs = derived(archive, again, table), derived(market, made, table)
        if table == "flagged":  # only how the two tables mix depends on it
            mine, theirs = (t.take(pc.sort_indices(t["source"].cast(pa.string()))) for t in (mine, theirs))
        assert mine.equals(theirs), table


def perturbed(random, ts):
    """Rows sent at ``ts`` or later: some deleted, some doubled with other content, the rest changed."""

    def change(table, rows):
        if table not in ("mbo", "trades", "mbp", "statistics"):
            return rows
        sent = ns(rows, "ts_sent")
        past, future = rows.slice(0, int((sent < ts).sum())), rows.slice(int((sent < ts).sum()))
        future = future.filter(pa.array(random.random(future.num_rows) < 0.7))
        for name in ("price", "size", "order_id"):
            if name in future.column_names:
                other = np.arange(future.num_rows)
                other = np.where(random.random(len(other)) < 0.5, random.permutation(other), other)
                place = future.column_names.index(name)
                future = future.set_column(place, future.schema.field(name), future[name].take(other))
        doubled = future.take(np.sort(random.integers(0, future.num_rows, future.num_rows * 5 // 4)))
        return pa.concat_tables([past, doubled])

    return change


def test_nothing_that_is_known_by_a_time_depends_on_what_was_sent_later(market, config, made, tmp_path):
    random = np.random.default_rng(11)
    sent = ns(read(market, "mbo"), "ts_sent")
    for n, ts in enumerate(random.integers(sent[2000], sent[-200], 5).tolist()):
        other = copy_of(market, tmp_path / str(n), perturbed(random, ts))
        again = run(other, config)
        assert again.dataset != made.dataset
        changed = 0
        for table, name, strictly in (
            ("book_tensors", "ts", False), ("labels", "ts_end", False), ("bars", "ts_end", True),
        ):  # fmt: skip
            # A volume bar is known when its last trade was sent, which may be this very moment.
            both = derived(market, made, table), derived(other, again, table)
            known = [t.filter(ns(t, name) < ts + (not strictly)) for t in both]
            if table == "bars":  # a time bar is written when its instrument trades again
                known = [
                    k.set_column(0, "kind", k["kind"].cast(pa.string())).sort_by(
                        [(c, "ascending") for c in ("instrument_id", "ts_end", "kind", "ts_start")]
                    )
                    for k in known
                ]
            assert known[0].num_rows > 20
            assert known[0].equals(known[1]), (table, ts)
            changed += not both[0].equals(both[1])
        assert changed == 3, "the perturbation must reach every table, or the test proves nothing"


def test_after_a_loss_only_books_that_may_be_believed_are_used(session, made, tmp_path, market):
    lost = set(range(900, 903)) | {2500}
    archive = archive_of(tmp_path, session[0], lost=lost)
    summary = run(archive, FeaturesConfig(archive.uri))
    books, whole = derived(archive, summary, "book_tensors"), derived(market, made, "book_tensors")
    usable = books["segment"].to_numpy() >= 0
    assert 0 < usable.sum() < summary.frames
    stale = (books["rules"].to_numpy() & CleaningRule.STALE) != 0
    assert books["bid_price"].null_count == stale.sum() > 0
    assert not frames(books)[stale].any()
    key = ["ts", "instrument_id"]
    prices = ["bid_price", "bid_size", "ask_price", "ask_size"]
    both = books.filter(pa.array(usable)).select([*key, *prices]).join(
        whole.select([*key, *prices]), key, right_suffix="_whole"
    )  # fmt: skip
    assert both.num_rows == usable.sum()
    assert all(both[name].equals(both[f"{name}_whole"]) for name in prices)
    assert summary.segments > 4


def test_a_session_of_stale_books_only_is_skipped_with_the_reason(session, tmp_path):
    snapshots = range(len(session[0].snapshots))
    archive = archive_of(tmp_path, session[0], lost=range(5, 60), lost_snapshots=snapshots)
    summary = run(archive, FeaturesConfig(archive.uri))
    assert summary.labels == summary.clean_frames == 0
    assert "none of" in summary.skipped
    assert "stale" in summary.skipped


def test_bad_input_is_told_in_one_sentence(market, config, tmp_path):
    with pytest.raises(FeaturesError, match="no order rows"):
        run(open_archive(str(tmp_path / "empty")), config)
    with pytest.raises(FeaturesError, match=r"no order rows for 2026-01-06 under .* of 2026-01-05"):
        run(market, replace(config, dates=(date(2026, 1, 6),)))
    bare = copy_of(
        market, tmp_path / "bare", lambda t, rows: rows.slice(0, 0) if t == "definitions" else rows
    )
    with pytest.raises(FeaturesError, match="no definitions for venue=XCME"):
        run(bare, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"step": 1}, "step"), ({"horizon_ns": 1}, "multiple"), ({"levels": 0}, "levels"),
     ({"bars": {"volume": 0}}, "widths"), ({"cleaning": {"x": 1}}, "x")],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(change, message):
    with pytest.raises(JobConfigError, match=message):
        parse_config(FeaturesConfig, json.dumps({"archive": "a", **change}), "here")


def test_a_config_survives_its_json(market, config):
    whole = replace(config, data_commit=market.data_commit(), dates=(WHERE.date,))
    assert parse_config(FeaturesConfig, config_json(whole), "here") == whole


def test_progress_counts_the_rows_of_all_units(market, config, tmp_path):
    told = []
    with events_to(told.append):
        run(copy_of(market, tmp_path), config)
    total = read(market, "mbo").num_rows
    assert [e["done"] for e in told] == [0, total, total]
    assert {(e["event"], e["stage"], e["total"], e["unit"]) for e in told} == {
        ("progress", "features", total, "rows")
    }


def test_the_job_is_a_program(market, config, made, tmp_path):
    (tmp_path / "config.json").write_text(config_json(config))
    command = [sys.executable, "-m", "workloads.features.job", "--config", str(tmp_path / "config.json")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    last = json.loads(lines[-1])
    assert last == {"event": "done", **json.loads(json.dumps(asdict(made)))}


def batches(*tables, rows=2):
    return [table.slice(i, rows) for table in tables for i in range(0, table.num_rows, rows)]


def test_an_event_counts_from_when_its_end_was_known_even_if_another_table_tells_it(market):
    mbo, others = read(market, "mbo").slice(0, 3000), [read(market, t) for t in MARKED]
    ends = event_ends(read(market, "mbo"), *others)[:3000]
    for size in (100, 1009, 3000):
        found = list(events(batches(mbo, rows=size), [batches(t, rows=50) for t in others]))
        assert all(part.ends[-1] for part in found)
        whole = np.concatenate([part.ends for part in found])
        assert np.array_equal(whole, ends[: len(whole)])
        assert len(whole) >= np.flatnonzero(ends)[-1]
        known = np.concatenate([part.known for part in found])
        assert (np.diff(known) >= 0).all()
        assert (known >= ns(mbo, "ts_sent")[: len(known)]).all()
