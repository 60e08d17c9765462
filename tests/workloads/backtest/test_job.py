"""The whole job on a generated market: what it writes, what it may not know, what it does with nothing."""

import datetime
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.workloads.backtest import market
from workloads.backtest.config import BacktestConfig
from workloads.backtest.decisions import NO_CLOSE
from workloads.backtest.engine import BacktestError
from workloads.backtest.inputs import _closes
from workloads.backtest.job import run
from workloads.models.portfolio import PositionConfig
from workloads.models.transaction_cost import CostConfig
from workloads.runtime.jobs import config_json, events_to, parse_config
from workloads.ticks.archive import Archive, DataCommit, MissingDataError, RunPartition, open_archive
from workloads.ticks.sessions import session

CALM = PositionConfig(risk_aversion=0.0001)


def config(archive: Archive, **changes: object) -> BacktestConfig:
    """Only the scores' model; other fields as given."""
    fields = {"strategies": ("vit",), "position": CALM} | changes
    return BacktestConfig(archive=archive.uri, dataset=market.DATASET, scores_run=market.RUN, **fields)


def quiet(archive: Archive, **changes: object) -> dict:
    with events_to(lambda event: None):
        return run(archive, config(archive, **changes))


def rows(archive: Archive, summary: dict, table: str) -> dict[str, np.ndarray]:
    found = archive.read(table, RunPartition(summary["run"]))
    return {
        name: (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()
        for name, column in zip(found.column_names, found.columns, strict=True)
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Archive, dict, market.Path]:
    path = market.path()
    archive = market.write(str(tmp_path_factory.mktemp("archive")), [path])
    return archive, quiet(archive, strategies=("vit", "flow")), path


def test_every_fill_is_at_the_opposite_quote_of_the_first_book_after_its_arrival(made):
    archive, summary, path = made
    orders, fills = rows(archive, summary, "orders"), rows(archive, summary, "fills")
    arrival = {
        (s, n): t for s, n, t in zip(orders["strategy"], orders["order"], orders["ts_arrival"], strict=True)
    }
    assert len(fills["order"]) > 100
    for strategy, order, ts, side, size, price in zip(
        *(fills[name] for name in ("strategy", "order", "ts_fill", "side", "size", "price")), strict=True
    ):
        book = np.searchsorted(path.ts, arrival[strategy, order])
        assert path.ts[book] == ts
        assert price == (path.ask[book] if side == 1 else path.bid[book])
        assert size <= (path.ask_size[book] if side == 1 else path.bid_size[book])


def test_decisions_lie_in_the_test_period_and_orders_travel_for_the_latency(made):
    archive, summary, _ = made
    orders = rows(archive, summary, "orders")
    assert orders["ts_decision"].min() >= summary["period"]["start"]
    assert orders["ts_decision"].max() < summary["period"]["end"]
    assert set(orders["ts_arrival"] - orders["ts_decision"]) == {5_000_000}


def test_the_summary_is_what_the_ledger_says(made):
    archive, summary, _ = made
    ledger, fills = rows(archive, summary, "ledger"), rows(archive, summary, "fills")
    for name, told in summary["strategies"].items():
        mine = ledger["strategy"] == name
        costs = [ledger[c][mine][-1] for c in ("spread_cost", "impact_cost", "commission")]
        assert told["pnl"] == pytest.approx(ledger["value"][mine][-1] / 1e9)
        assert list(told["costs"].values()) == pytest.approx([c / 1e9 for c in costs])
        assert told["gross_pnl"] - told["pnl"] == pytest.approx(sum(costs) / 1e9)
        assert told["trades"] == (fills["strategy"] == name).sum()
        value = told["capital"] + np.append(0, ledger["value"][mine] / 1e9)
        fall = (value / np.maximum.accumulate(value) - 1).min()
        assert told["max_drawdown"] == pytest.approx(fall, rel=1e-6)


def test_positions_stay_within_their_limit(made):
    archive, summary, _ = made
    assert 0 < np.abs(rows(archive, summary, "ledger")["position"]).max() <= CALM.max_position


def always_long(grid: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    scores = market.scores_of(grid)
    scores["p_up"][:], scores["p_flat"][:], scores["p_down"][:] = 0.95, 0.0, 0.05
    return scores


@pytest.mark.parametrize("missing_s", [0, 60])
def test_positions_are_closed_before_the_sessions_close_and_stay_open_where_the_data_end(tmp_path, missing_s):
    """16:00 Chicago is the close; the data last until then, or end a minute earlier, unforeseen."""
    close = session("XCME", market.DATE).close_ns
    path = market.path(seconds=300, start=close - (300 + missing_s) * 10**9)
    grid = market.grid_of(path)
    archive = market.write(str(tmp_path / "a"), [path], [grid], [always_long(grid)])
    summary = quiet(archive, position=PositionConfig(risk_aversion=0.0), cost=CostConfig(impact=0.0))
    orders, ledger = rows(archive, summary, "orders"), rows(archive, summary, "ledger")
    held = int(ledger["position"][-1])
    assert summary["strategies"]["vit"]["open_lots"] == held
    assert ledger["position"][ledger["ts"] < close - 11 * 10**9].max() > 0
    if missing_s:
        assert held > 0 and set(orders["reason"]) == {"alpha"}
        value = ledger["cash"][-1] + held * ledger["mark"][-1] * 50
        assert ledger["value"][-1] == value == round(summary["strategies"]["vit"]["pnl"] * 1e9)
    else:
        assert held == 0
        assert min(orders["ts_decision"][orders["reason"] == "flatten"]) == close - 10 * 10**9


def test_a_venue_or_a_date_without_a_session_plans_no_close():
    dates = [market.DATE, datetime.date(2026, 1, 3)]
    assert _closes("XCME", dates).tolist() == [session("XCME", market.DATE).close_ns, NO_CLOSE]
    assert _closes("NONE", dates).tolist() == [NO_CLOSE] * 2


@pytest.mark.parametrize("seed", range(4))
def test_when_all_inputs_are_cut_off_everything_before_is_the_same(tmp_path, seed):
    """Cut anywhere, or around a gap. Only what the last order will come to may still be open."""
    path = market.path(seconds=240, seed=seed)
    grid = market.grid_of(path, broken=(800, 812))
    scores, orders = market.scores_of(grid), market.mbo_of([path])
    random = np.random.default_rng(seed)
    number = random.integers(640, 900) if seed % 2 else random.integers(798, 815)
    t = int(grid["ts"][number])
    cut = [{name: values[times <= t - before] for name, values in table.items()}
           for table, times, before in ((grid, grid["ts"], 0), (scores, scores["ts"], 0),
                                        (orders, orders["ts_sent"], 1))]  # fmt: skip
    both = []
    for name, (g, s, o) in (("whole", (grid, scores, orders)), ("cut", tuple(cut))):
        archive = market.write(str(tmp_path / name), [path], [g], [s], o)
        summary = quiet(archive, strategies=("vit", "flow"), capital=1e6)
        both.append({table: rows(archive, summary, table) for table in ("orders", "fills", "ledger")})
    for strategy in ("vit", "flow"):
        for table, time in (("orders", "ts_decision"), ("fills", "ts_fill"), ("ledger", "ts")):
            early = [
                {c: v[(tables[table][time] < t) & (tables[table]["strategy"] == strategy)]
                 for c, v in tables[table].items()}
                for tables in both
            ]  # fmt: skip
            assert len(early[0][time]) > 5
            for column in early[0]:
                known = slice(None, -1 if column == "filled" else None)
                assert early[0][column][known].tolist() == early[1][column][known].tolist(), column
    assert len(both[0]["fills"]["price"]) > len(both[1]["fills"]["price"])


def test_running_again_changes_nothing(made):
    archive, summary, _ = made
    before = {t: archive.log(t, RunPartition(summary["run"])) for t in ("orders", "fills", "ledger")}
    assert quiet(archive, strategies=("vit", "flow")) == summary
    assert {t: archive.log(t, RunPartition(summary["run"])) for t in before} == before


def test_equal_inputs_give_equal_files_anywhere(made, tmp_path):
    archive, summary, path = made
    other = market.write(str(tmp_path / "other"), [path])
    again = quiet(other, strategies=("vit", "flow"))
    assert again == summary
    for table in ("orders", "fills", "ledger"):
        files = [[f.sha256 for f in a.files(table, RunPartition(summary["run"]))] for a in (archive, other)]
        assert files[0] == files[1]


def test_the_run_id_depends_on_the_inputs_and_the_config_alone(made):
    archive, summary, _ = made
    assert quiet(archive, strategies=("vit", "flow"), latency_ns=10**9)["run"] != summary["run"]


def test_a_config_survives_its_own_json(made):
    asked = config(made[0], cost=CostConfig(commission=2.5, impact=0.0))
    assert parse_config(BacktestConfig, config_json(asked), "here") == asked


@pytest.mark.parametrize("seed", range(4))
def test_the_future_changes_nothing_that_was_decided_filled_or_booked_before(tmp_path, seed):
    """Everything that becomes known from a random time on is replaced: orders, grid rows, scores."""
    path = market.path(seconds=240, seed=seed)
    grid = market.grid_of(path)
    scores = market.scores_of(grid)
    test = scores["ts"][scores["split"] == "test"]
    random = np.random.default_rng(seed)
    t = int(random.choice(test[40:-60]))
    other = market.path(seconds=240, seed=seed + 100)
    late = path.ts >= t
    changed = replace(path, **{n: np.where(late, getattr(other, n), getattr(path, n))
                               for n in ("bid", "ask", "bid_size", "ask_size")})  # fmt: skip
    new_grid = market.grid_of(changed)
    shuffled = random.permutation(len(scores["ts"]))
    new_scores = {
        name: np.where(scores["ts"] > t, values[shuffled], values) if name.startswith("p_") else values
        for name, values in scores.items()
    }
    both = []
    for name, arguments in (("a", (path, grid, scores)), ("b", (changed, new_grid, new_scores))):
        archive = market.write(str(tmp_path / name), [arguments[0]], [arguments[1]], [arguments[2]])
        summary = quiet(archive, strategies=("vit", "flow"), capital=1e6)
        both.append({table: rows(archive, summary, table) for table in ("orders", "fills", "ledger")})
    for table, time, columns in (
        (
            "orders",
            "ts_decision",
            ("strategy", "order", "ts_decision", "side", "size", "decision_mid", "reason"),
        ),
        ("fills", "ts_fill", tuple(both[0]["fills"])),
        ("ledger", "ts", tuple(both[0]["ledger"])),
    ):
        for strategy in ("vit", "flow"):
            early = [
                {c: tables[table][c][(tables[table][time] < t) & (tables[table]["strategy"] == strategy)]
                 for c in columns}
                for tables in both
            ]  # fmt: skip
            for column in columns:
                assert early[0][column].tolist() == early[1][column].tolist(), (table, column)
    assert both[0]["fills"]["price"].tolist() != both[1]["fills"]["price"].tolist()


def oracle_scores(grid: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return market.scores_of(grid, skill=1.0)


def test_whoever_knows_the_future_makes_money(tmp_path):
    path = market.path(seconds=600)
    grid = market.grid_of(path)
    archive = market.write(str(tmp_path / "a"), [path], [grid], [oracle_scores(grid)])
    told = quiet(archive)["strategies"]["vit"]
    assert told["pnl"] > sum(told["costs"].values()) > 0
    assert told["hit_rate"] > 0.6


def test_scores_that_are_shuffled_lose_about_the_costs(tmp_path):
    gross, costs = [], []
    for seed in range(6):
        path = market.path(seconds=400, seed=seed, drift=0.5)
        grid = market.grid_of(path)
        scores = oracle_scores(grid)
        order = np.random.default_rng(seed).permutation(len(scores["ts"]))
        for name in ("p_down", "p_flat", "p_up"):
            scores[name] = scores[name][order]
        archive = market.write(str(tmp_path / str(seed)), [path], [grid], [scores])
        told = quiet(archive)["strategies"]["vit"]
        gross.append(told["gross_pnl"])
        costs.append(sum(told["costs"].values()))
    error = np.std(gross, ddof=1) / np.sqrt(len(gross))
    assert abs(np.mean(gross)) < 3 * error  # nothing is earned before costs
    assert np.mean(gross) - np.mean(costs) < -0.5 * np.mean(costs)


def test_slow_reports_leave_the_first_decision_as_it_was(tmp_path):
    path = market.path(seconds=240)
    archive = market.write(str(tmp_path / "a"), [path])
    fast, slow = (quiet(archive, report_latency_ns=ns) for ns in (5_000_000, 10**9))
    fast_orders, slow_orders = (rows(archive, summary, "orders") for summary in (fast, slow))
    first_report = rows(archive, slow, "fills")["ts_fill"][0] + 5_000_000
    early = [orders["ts_decision"] < first_report for orders in (fast_orders, slow_orders)]
    assert early[0].sum() == early[1].sum() > 0
    for column in ("ts_decision", "side", "size", "decision_mid"):
        assert np.array_equal(fast_orders[column][early[0]], slow_orders[column][early[1]])
    assert (np.diff(slow_orders["ts_decision"]) > 10**9).all()  # it waits for each report


def test_a_gap_ends_all_positions_as_soon_as_there_are_books_behind_it(tmp_path):
    path = market.path(seconds=400)
    grid = market.grid_of(path, broken=(1_300, 1_320))
    archive = market.write(str(tmp_path / "a"), [path], [grid], [always_long(grid)])
    summary = quiet(archive, position=PositionConfig(risk_aversion=0.0), cost=CostConfig(impact=0.0))
    orders, fills = rows(archive, summary, "orders"), rows(archive, summary, "fills")
    start, stop = grid["ts"][1_300] - market.STEP, grid["ts"][1_320]
    inside = (orders["ts_decision"] >= grid["ts"][1_300]) & (orders["ts_decision"] < stop + 5 * market.STEP)
    assert set(orders["reason"][inside]) == {"flatten"} and set(orders["side"][inside]) == {2}
    assert not ((fills["ts_fill"] > start) & (fills["ts_fill"] < stop - market.STEP)).any()
    ledger = rows(archive, summary, "ledger")
    behind = (ledger["ts"] > stop + 2 * market.STEP) & (ledger["ts"] < stop + 7 * market.STEP)
    assert (ledger["position"][behind] == 0).all()
    assert (ledger["position"][ledger["ts"] < start] > 0).any()


def test_books_that_the_dataset_does_not_confirm_are_not_met(tmp_path):
    """Orders of a lost stretch are missing: only the dataset's own rows serve as books there."""
    path = market.path(seconds=300)
    grid = market.grid_of(path)
    test = market.scores_of(grid)
    start = int(test["ts"][test["split"] == "test"][0])
    orders = market.mbo_of([path])
    kept = (orders["ts_sent"] < start) | (orders["ts_sent"] > start + 40 * 10**9)
    orders = {name: values[kept] for name, values in orders.items()}
    archive = market.write(str(tmp_path / "a"), [path], [grid], None, orders)
    summary = quiet(archive)
    fills = rows(archive, summary, "fills")
    assert summary["books_from_grid"] > 140
    lost = fills["ts_fill"] < start + 40 * 10**9
    assert lost.sum() > 5 and (fills["ts_fill"][lost] % market.STEP == 0).all()
    row = np.searchsorted(grid["ts"], fills["ts_fill"][lost])
    quote = np.where(fills["side"][lost] == 1, grid["ask_price"][row], grid["bid_price"][row])
    assert np.array_equal(fills["price"][lost], quote)


def test_two_instruments_add_up(tmp_path):
    paths = [market.path(1, seconds=240), market.path(2, seconds=240, seed=5)]
    both = market.write(str(tmp_path / "both"), paths)
    whole = quiet(both, capital=1e6)
    ledger = rows(both, whole, "ledger")
    parts = []
    for path in paths:
        alone = market.write(str(tmp_path / str(path.instrument_id)), [path])
        parts.append(quiet(alone, capital=1e6)["strategies"]["vit"]["pnl"])
    assert whole["strategies"]["vit"]["pnl"] == pytest.approx(sum(parts))
    assert set(ledger["instrument_id"]) == {1, 2}
    numbers = rows(both, whole, "orders")["order"]
    assert numbers.tolist() == list(range(1, len(numbers) + 1))


def test_without_scores_the_error_says_what_to_do(tmp_path):
    archive = market.write(str(tmp_path / "a"), [market.path(seconds=60)])
    with pytest.raises(BacktestError, match=r"no scores of run other .* there are vit-0: train first"):
        run(archive, replace(config(archive), scores_run="other"))
    with pytest.raises(BacktestError, match="no scores of majority; strategies are vit and flow"):
        run(archive, config(archive, strategies=("majority",)))
    with pytest.raises(BacktestError, match="no book_tensors of dataset other"):
        run(archive, replace(config(archive), dataset="other"))


def test_without_a_test_period_the_error_says_so(tmp_path):
    path = market.path(seconds=60)
    scores = market.scores_of(market.grid_of(path))
    scores["split"] = np.full(len(scores["ts"]), "train")
    archive = market.write(str(tmp_path / "a"), [path], None, [scores])
    with pytest.raises(BacktestError, match="none of a test period"):
        run(archive, config(archive))


def test_too_little_to_fit_on_leaves_the_instrument_out_with_the_reason(tmp_path):
    archive = market.write(str(tmp_path / "a"), [market.path(seconds=12)])
    summary = quiet(archive)
    assert "fewer than 20" in summary["left_out"]["vit, instrument 1"]
    told = summary["strategies"]["vit"]
    assert (told["pnl"], told["trades"], told["sharpe"], told["hit_rate"]) == (0.0, 0, None, None)
    assert archive.read("ledger", RunPartition(summary["run"])).num_rows == 0


def test_a_strategy_that_never_trades_has_a_flat_ledger(tmp_path):
    archive = market.write(str(tmp_path / "a"), [market.path(seconds=120)])
    summary = quiet(archive, cost=CostConfig(commission=1e6))
    told = summary["strategies"]["vit"]
    assert (told["orders"], told["pnl"], told["cost_share"], told["max_drawdown"]) == (0, 0.0, None, 0.0)
    assert summary["rows"]["orders"] == 0 and summary["rows"]["ledger"] > 40


def test_a_test_period_without_books_leaves_orders_unfilled(tmp_path):
    path = market.path(seconds=240)
    grid, scores = market.grid_of(path), market.scores_of(market.grid_of(path))
    start = scores["ts"][scores["split"] == "test"][0]
    grid["segment"] = np.where(grid["ts"] >= start, -1, grid["segment"])
    archive = market.write(str(tmp_path / "a"), [path], [grid], [scores])
    summary = quiet(archive)
    assert summary["books"] == 0
    assert summary["strategies"]["vit"]["trades"] == 0


def test_currencies_are_never_added(tmp_path):
    paths = [market.path(1, seconds=120), market.path(2, seconds=120, seed=2)]
    archive = market.write(str(tmp_path / "a"), paths)
    euro = market.definitions([2], currency="EUR")
    archive.commit("definitions", market.PARTITION, {"later": euro.set_column(
        euro.column_names.index("ts_sent"), euro.schema.field("ts_sent"),
        pc.add(euro["ts_sent"].cast(pa.int64()), 1).cast(euro["ts_sent"].type))})  # fmt: skip
    with pytest.raises(BacktestError, match="quoted in EUR, USD"):
        run(archive, config(archive))
    summary = quiet(archive, currency="USD")
    assert summary["left_out"] == {"instrument 2": "quoted in EUR, not in USD"}


def test_a_commit_of_the_market_alone_decides_the_market_and_nothing_else(tmp_path):
    archive = market.write(str(tmp_path / "a"), [market.path(seconds=120)])
    then = archive.data_commit()
    archive.commit("mbo", market.PARTITION, {"b": archive.read("mbo").slice(0, 0)})
    now, before = quiet(archive), quiet(archive, data_commit=then)
    assert now["data_commit"]["entries"]["mbo/" + market.PARTITION.path] == 2
    assert before["data_commit"]["entries"]["mbo/" + market.PARTITION.path] == 1
    assert f"scores/run={market.RUN}" in before["data_commit"]["entries"]
    assert now["run"] != before["run"]


def test_a_commit_of_the_dataset_alone_reads_the_market_as_of_now(tmp_path):
    archive = market.write(str(tmp_path / "a"), [market.path(seconds=120)])
    then = archive.data_commit(["book_tensors", "labels"])
    assert quiet(archive, data_commit=then) == quiet(archive)


@pytest.mark.parametrize("path", [f"mbo/{market.PARTITION.path}", "mbo/venue=XCME/date=2026-01-06/channel=9"])
def test_a_commit_that_the_archive_does_not_hold_is_refused(tmp_path, path):
    archive = market.write(str(tmp_path / "a"), [market.path(seconds=120)])
    ahead = DataCommit("ahead", archive.data_commit().entries | {path: 2})
    with pytest.raises(MissingDataError, match=r"has [01] log entries, the data commit needs 2"):
        run(archive, config(archive, data_commit=ahead))


def test_the_job_is_a_program(made, tmp_path: Path, monkeypatch, capsys):
    from workloads.backtest import job

    asked = config(open_archive(made[0].uri))
    (tmp_path / "c.json").write_text(config_json(asked))
    monkeypatch.setattr("sys.argv", ["job", "--config", str(tmp_path / "c.json")])
    with pytest.raises(SystemExit) as ended:
        job.main()
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert '"event": "ready"' in lines[0] and '"event": "done"' in lines[-1]


def test_channels_are_mapped_and_their_orders_numbered_together(tmp_path):
    """Two channels: a map that hands results over as a worker would gives what one channel gives."""
    paths = [market.path(1, seconds=240), market.path(2, seconds=240, seed=5)]
    one = market.write(str(tmp_path / "one"), paths)
    grids = [market.grid_of(path) for path in paths]
    archive = market.write(str(tmp_path / "two"), paths[:1], grids, [market.scores_of(g) for g in grids])
    market.add_channel(archive, paths[1], 311)

    def elsewhere(function, items):
        return [pickle.loads(pickle.dumps(function))(item) for item in items]

    with events_to(lambda event: None):
        whole = run(one, config(one, capital=1e6))
        split = run(archive, config(archive, capital=1e6), elsewhere)
    assert split["strategies"] == whole["strategies"]
    assert rows(archive, split, "orders")["order"].tolist() == rows(one, whole, "orders")["order"].tolist()


def test_a_second_session_of_the_week_is_traded_in_its_own_books(tmp_path):
    """The same epoch, packets from 1 again, and the orders of Monday are never cancelled."""
    tuesday = market.path(seconds=300, seed=2, start=market.START + market.DAY)
    days = {market.DATE: market.path(seconds=300), market.DATE + datetime.timedelta(days=1): tuesday}
    archive = market.write_days(str(tmp_path / "a"), days)
    summary = quiet(archive)
    start, end = summary["period"]["start"], summary["period"]["end"]
    inside = (tuesday.ts >= start) & (tuesday.ts < end)
    assert start > market.START + market.DAY and summary["books_from_grid"] == 0
    assert summary["books"] == pytest.approx(inside.sum(), abs=12)  # and some of the step before the start
    fills = rows(archive, summary, "fills")
    book = np.searchsorted(tuesday.ts, fills["ts_fill"])
    quote = np.where(fills["side"] == 1, tuesday.ask[book], tuesday.bid[book])
    assert len(book) > 50 and np.array_equal(fills["price"], quote)


def test_a_channel_without_one_date_of_the_test_period_keeps_its_positions_and_marks(tmp_path):
    """Two channels over two days; the second one has no Tuesday, and is long when Monday's data end."""
    uri, tuesday = str(tmp_path / "a"), market.DATE + datetime.timedelta(days=1)
    first = {
        market.DATE: market.path(seconds=240),
        tuesday: market.path(seconds=30, seed=2, start=market.START + market.DAY),
    }
    archive = market.write_days(uri, first)
    second = market.path(2, seconds=240, seed=5)
    grid = market.grid_of(second)
    market.add_channel(archive, second, 311)
    market.add_rows(archive, market.DATE, "XCME-311", grid, always_long(grid))
    summary = quiet(archive, position=PositionConfig(risk_aversion=0.0), cost=CostConfig(impact=0.0))
    ledger = rows(archive, summary, "ledger")
    mine = {i: ledger["instrument_id"] == i for i in (1, 2)}
    assert np.array_equal(ledger["ts"][mine[1]], ledger["ts"][mine[2]])
    late = mine[2] & (ledger["ts"] > market.START + market.DAY)
    assert late.sum() > 29
    assert all(len(set(ledger[name][late])) == 1 for name in ("position", "mark", "value"))
    assert ledger["position"][late][0] > 0
    assert ledger["mark"][late][0] == (second.bid[-1] + second.ask[-1]) // 2


def test_a_mid_below_zero_is_a_mid(tmp_path):
    """A spread: the same walk 270 ticks lower changes no order and no profit, and capital is a size."""
    made = {}
    for name, level in (("above", 20), ("below", -250)):
        path = market.path(seconds=240, level=level)
        archive = market.write(str(tmp_path / name), [path])
        free = CostConfig(commission=1.0, impact=0.0)
        made[name] = rows(archive, quiet(archive, capital=1e6, cost=free), "ledger")
        told = quiet(archive, cost=free)["strategies"]["vit"]
        assert told["capital"] == abs(made[name]["mark"][0]) / 1e9 * CALM.max_position * 50 > 0
    for column in ("position", "value", "spread_cost"):
        assert np.array_equal(made["above"][column], made["below"][column])
    assert (made["below"]["mark"] < 0).all() and np.abs(made["below"]["position"]).max() > 0


def test_before_the_first_usable_row_of_the_period_the_mark_is_the_last_one_before(tmp_path):
    path = market.path(seconds=240)
    grid = market.grid_of(path)
    scores = market.scores_of(grid)
    start = int(scores["ts"][scores["split"] == "test"][0])
    hidden = (grid["ts"] >= start) & (grid["ts"] < start + 5 * 10**9)
    grid["segment"] = np.where(hidden, -1, grid["segment"])
    archive = market.write(str(tmp_path / "a"), [path], [grid], [scores])
    last = np.searchsorted(grid["ts"], start) - 1
    ledger = rows(archive, quiet(archive), "ledger")
    mid = (grid["bid_price"][last] + grid["ask_price"][last]) // 2
    assert set(ledger["mark"][ledger["ts"] < start + 4 * 10**9]) == {mid}


def test_instruments_of_no_stated_currency_are_traded_as_such(tmp_path):
    archive = market.write(str(tmp_path / "a"), [market.path(seconds=120)])
    nameless = market.definitions([1], currency=None)
    later = pc.add(nameless["ts_sent"].cast(pa.int64()), 1).cast(nameless["ts_sent"].type)
    at = nameless.column_names.index("ts_sent")
    archive.commit(
        "definitions", market.PARTITION, {"b": nameless.set_column(at, nameless.schema.field(at), later)}
    )
    summary = quiet(archive)
    assert summary["left_out"] == {} and summary["strategies"]["vit"]["trades"] > 0
    assert summary["strategies"]["vit"]["currency"] == "unknown"
    assert quiet(archive, currency="unknown")["strategies"] == summary["strategies"]
