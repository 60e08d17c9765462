"""The research part of the report: its numbers are those of the tables, computed another way."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import numpy as np
import pytest

from operations.report import build_report
from operations.report import research as research_module
from operations.report.bound import best_forecast
from operations.report.cleaning import BOOK, CLOSED, LOST, MOST_RUNS, OTHER, USABLE, runs, states
from operations.report.forecasts import BOUND
from operations.report.interval import Interval
from operations.report.page import render
from operations.report.record import RecordError, run_record
from operations.report.research import ahead_of_bound, charts, research, verdict, warnings
from operations.report.research_figures import equity_chart, plain
from operations.report.trading import pnl_interval, strategy
from operations.report.wording import count, money, percent, points, share
from tests.operations.research_run import (
    DATASET,
    HORIZON,
    STEP,
    SYMBOLS,
    TESTED,
    TRAINED,
    Made,
    make,
    rows,
)
from workloads.exchange.simulator.truth import Truth
from workloads.ticks.archive import Archive, RunPartition, open_archive
from workloads.ticks.codes import CleaningRule
from workloads.ticks.schema import TABLES

HOSTILE = '</script><script>alert("x")</script><b>&'
RESEARCH_TABLES = ("book_tensors", "labels", "cleaning", "scores", "learning", "orders", "fills", "ledger")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """A simulated run with skill, two instruments, two strategies."""
    return make(tmp_path_factory.mktemp("simulated"), steps=6_000)


@pytest.fixture(scope="module")
def found(made):
    return read(made)


def read(made: Made):
    return research(made.run, made.folder, open_archive(str(made.folder / "archive")))


def ask(made: Made, sql: str) -> list[tuple]:
    """The answer of DuckDB over the archive's tables."""
    archive = open_archive(str(made.folder / "archive"))
    with duckdb.connect() as connection:
        for name in RESEARCH_TABLES:
            columns = [c for c in TABLES[name].arrow.names if c != "frame"]
            connection.register(name, archive.read(name, columns=columns))
        return connection.execute(sql).fetchall()


class Words(HTMLParser):
    """What a reader sees: no scripts, no styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self._silent = False
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        if not self._silent:
            self.text += f" {data}"


def words(made: Made) -> str:
    made.save()
    return Words(render(made.folder)).text


def spaces(text: str) -> str:
    return " ".join(text.split())


def changed(made: Made, **stages) -> Made:
    """The same run with another record of its stages."""
    run = json.loads(json.dumps(made.run))
    for stage, change in stages.items():
        for part, values in change.items():
            run["research"][stage][part] |= values
    return replace(made, run=run)


# Forecasts

TOP = """
CASE WHEN p_down >= p_flat AND p_down >= p_up THEN -1 WHEN p_flat >= p_up THEN 0 ELSE 1 END
"""
JUDGED = f"""
SELECT s.*, l.label, ({TOP}) = l.label AS hit,
    CASE l.label WHEN -1 THEN p_down WHEN 0 THEN p_flat ELSE p_up END AS came
FROM scores s JOIN labels l USING (instrument_id, ts) WHERE split = 'test'
"""


def test_accuracy_and_log_loss_are_those_of_a_join_of_scores_and_labels(made, found):
    for model, n, accuracy, loss in ask(
        made, f"SELECT model, count(*), avg(hit::INT), avg(-ln(came)) FROM ({JUDGED}) GROUP BY 1"
    ):
        quality = found.forecasts.overall[model]
        assert (quality.n, quality.accuracy.value) == (n, pytest.approx(accuracy))
        assert quality.log_loss == pytest.approx(loss)
        assert quality.accuracy.low < accuracy < quality.accuracy.high


def test_the_page_prints_what_the_join_says(made):
    text = words(made)
    said = ask(made, f"SELECT model, avg(hit::INT), avg(-ln(came)) FROM ({JUDGED}) GROUP BY 1 ORDER BY 1")
    for (_, accuracy, loss), name in zip(said, ("logistic regression", "majority class", "vit"), strict=True):
        assert re.search(rf"{name} [\d,]+ {spaces(percent(accuracy))} [\d.]+ to [\d.]+ % {loss:.4f}", text)


def test_accuracy_by_instrument_is_that_of_its_own_decisions(made, found):
    for model, instrument, n, accuracy in ask(
        made, f"SELECT model, instrument_id, count(*), avg(hit::INT) FROM ({JUDGED}) GROUP BY ALL"
    ):
        quality = found.forecasts.by_instrument[instrument][model]
        assert (quality.n, quality.accuracy.value) == (n, pytest.approx(accuracy))


def test_the_difference_of_two_models_is_paired(made, found):
    pairs = f"SELECT instrument_id, ts, hit FROM ({JUDGED}) WHERE model = "
    (gap,) = ask(
        made,
        f"SELECT avg(a.hit::INT - b.hit::INT) FROM ({pairs} 'vit') a JOIN ({pairs} 'logistic') b "
        "USING (instrument_id, ts)",
    )[0]
    interval = found.forecasts.ahead["logistic"]
    apart = [found.forecasts.overall[name].accuracy for name in ("vit", "logistic")]
    assert interval.value == pytest.approx(gap)
    # What both find hard cancels: narrower than two independent intervals would be.
    assert interval.high - interval.low < sum(one.high - one.low for one in apart)


def test_the_confusion_matrix_counts_each_decision_once(made, found):
    table = np.zeros((3, 3), int)
    for label, chosen, n in ask(
        made, f"SELECT label, {TOP}, count(*) FROM ({JUDGED}) WHERE model = 'vit' GROUP BY ALL"
    ):
        table[label + 1, chosen + 1] = n
    np.testing.assert_array_equal(found.forecasts.confusion, table)
    assert spaces(share(table[0, 0], table[0].sum())) in words(made)


def test_reliability_bins_hold_every_decision_and_their_mean_is_the_accuracy(made, found):
    one = found.forecasts.reliability["vit"]
    assert (np.diff(one.confidence) > 0).all()
    counts = [len(part) for part in np.array_split(np.arange(found.forecasts.n), 10)]
    mean = np.average([hit.value for hit in one.hits], weights=counts)
    assert mean == pytest.approx(found.forecasts.overall["vit"].accuracy.value)
    off = np.average(np.abs(one.confidence - [hit.value for hit in one.hits]), weights=counts)
    assert one.error == pytest.approx(off)


def test_only_decisions_that_every_model_scored_are_compared(tmp_path):
    made = make(tmp_path, steps=800)
    archive = open_archive(str(made.folder / "archive"))
    before = read(made).forecasts
    scores = archive.read("scores", RunPartition(TRAINED))
    keep = [not (m == "logistic" and s == "test" and n % 3 == 0) for n, (m, s) in enumerate(
        zip(scores["model"].to_pylist(), scores["split"].to_pylist(), strict=True)
    )]  # fmt: skip
    archive.replace("scores", RunPartition(TRAINED), {"fewer": scores.filter(keep)}, ["s"])
    after = read(made).forecasts
    assert after.n < before.n
    assert {quality.n for quality in after.overall.values()} == {after.n}


# The bound


def test_the_bound_knows_the_step_that_ended_and_nothing_later(made):
    truth = Truth.load(made.folder / "truth.npz")
    k = 1_000
    at = np.array([int(truth.ts_step[k]) + STEP])
    instrument = np.array([int(truth.instrument_id[0])])

    def bound(first: int, last: int) -> np.ndarray:
        moves = truth.moves.copy()
        moves[first:last, 0] = np.where(moves[first:last, 0] == 1, -1, 1)
        replace(truth, moves=moves).save(made.folder / "truth.npz")
        try:
            return best_forecast(made.folder, instrument, at, HORIZON * STEP)
        finally:
            truth.save(made.folder / "truth.npz")

    as_it_was = bound(0, 0)
    np.testing.assert_array_equal(bound(k + 1, len(truth.moves)), as_it_was)
    assert not np.allclose(bound(k, k + 1), as_it_was)


def test_the_bound_is_judged_on_the_same_decisions(made, found):
    decisions = ask(made, f"SELECT instrument_id, epoch_ns(ts), label FROM ({JUDGED}) WHERE model = 'vit'")
    instrument, ts, label = (np.array(column) for column in zip(*decisions, strict=True))
    best = best_forecast(made.folder, instrument, ts, HORIZON * STEP)
    quality = found.forecasts.overall[BOUND]
    assert quality.n == found.forecasts.bound_of == len(label)
    assert quality.accuracy.value == pytest.approx((best.argmax(axis=1) - 1 == label).mean())


def test_times_and_instruments_that_were_not_simulated_have_no_bound(made):
    truth = Truth.load(made.folder / "truth.npz")
    first = int(truth.ts_step[0])
    ts = first + STEP * np.array([0, 1, len(truth.ts_step), len(truth.ts_step) + 1, 3])
    ts[-1] += 1
    known = best_forecast(made.folder, np.full(5, truth.instrument_id[0]), ts, HORIZON * STEP)
    np.testing.assert_array_equal(np.isnan(known[:, 0]), [True, False, False, True, True])
    assert np.isnan(best_forecast(made.folder, np.full(5, 99), ts, HORIZON * STEP)).all()
    assert best_forecast(made.folder, np.full(5, 1), ts, STEP + 1) is None


def test_a_model_above_the_bound_is_a_loud_warning(tmp_path):
    made = make(tmp_path, look_ahead=True, steps=8_000)
    found = read(made)
    assert set(ahead_of_bound(found.forecasts)) == {"vit"}
    said = verdict(found)
    assert (said.state, said.label) == ("unexplained", "Look-ahead suspected")
    assert "Believe no figure of this run" in said.sentence
    assert 'class="verdict unexplained" id="research-verdict"' in render(made.folder)


def test_an_honest_model_is_not_above_the_bound(found):
    assert ahead_of_bound(found.forecasts) == {}


def test_a_capture_has_no_bound_and_says_so(tmp_path):
    made = make(tmp_path, instruments=1, steps=1_200, simulated=False, skill=0.0)
    text = words(made)
    assert BOUND not in read(made).forecasts.overall
    assert "A recorded market has no known bound." in text
    assert "nobody knows how well a recorded market can be forecast" in text


# The verdict


@pytest.mark.parametrize(
    ("options", "state", "label"),
    [
        ({"cost": 0.0, "skill": 1.0}, "proven", "Skill, and a profit after costs"),
        ({"cost": 20.0}, "explained", "Skill, but no proven profit"),
        ({"cost": 200.0}, "explained", "Skill, but a loss after costs"),
        ({"cost": 200.0, "skill": 0.0}, "unproven", "No proven skill"),
    ],
)
def test_the_verdict_follows_the_intervals(tmp_path, options, state, label):
    said = verdict(read(make(tmp_path, steps=8_000, **options)))
    assert (said.state, said.label) == (state, label)


def interval_around(value: float) -> Interval:
    return Interval(value, value - 0.01, value + 0.01)


@pytest.mark.parametrize(
    ("over_logistic", "over_majority", "profit", "label"),
    [
        (0.02, 0.20, 0.02, "Skill, and a profit after costs"),
        (0.02, 0.20, 0.0, "Skill, but no proven profit"),
        (0.02, 0.20, -0.02, "Skill, but a loss after costs"),
        (0.005, 0.20, 0.02, "Skill, but none beyond logistic regression"),
        (0.02, 0.005, 0.02, "A profit, but no proven skill"),
        (0.0, 0.0, 0.0, "No proven skill"),
    ],
)
def test_the_verdict_believes_only_whole_intervals(found, over_logistic, over_majority, profit, label):
    ahead = {"logistic": interval_around(over_logistic), "majority": interval_around(over_majority)}
    first, *others = found.trading.strategies
    traded = replace(found.trading, strategies=[replace(first, pnl=interval_around(profit)), *others])
    judged = replace(found, forecasts=replace(found.forecasts, ahead=ahead), trading=traded)
    assert verdict(judged).label == label


def test_the_verdict_names_the_accuracy_the_bound_and_the_money_with_intervals(found):
    said = verdict(found)
    accuracy = found.forecasts.overall["vit"].accuracy
    best = found.forecasts.overall[BOUND].accuracy
    pnl = found.trading.strategies[0].pnl
    for value, low, high in (accuracy, best):
        assert f"{percent(value)} ({100 * low:.1f} to {percent(high)})" in said.sentence
    assert f"({points(found.forecasts.ahead['majority'].low)} to " in said.sentence
    assert money(abs(pnl.value), "USD") in said.more
    assert money(pnl.high, "USD") in said.more


@pytest.mark.parametrize(
    ("research_of_run", "label", "sentence"),
    [
        (None, "No research", "This run stored ticks and ended there."),
        ({"skipped": "too few rows: 12"}, "Research skipped", "Too few rows: 12."),
    ],
)
def test_a_run_without_research_says_why(made, research_of_run, label, sentence):
    other = replace(made, run=made.run | {"research": research_of_run})
    text = words(other)
    assert label in text
    assert sentence in text
    assert "tickworks backtest reproduce" not in text
    assert "Data quality" not in text
    made.save()


@pytest.mark.parametrize("missing", [["backtest"], ["training", "backtest"]])
def test_research_that_stopped_shows_what_there_is(made, missing):
    run = json.loads(json.dumps(made.run))
    for stage in missing:
        del run["research"][stage]
    run["research"]["skipped"] = "training failed: no rows"
    text = words(replace(made, run=run))
    assert "of the grid time is usable" in text
    assert ("No scores of a test period" in text) == ("training" in missing)
    assert "No ledger of a backtest is stored." in text
    made.save()


@pytest.mark.parametrize("stage", ["features", "training", "backtest"])
def test_results_that_are_not_in_the_archive_are_missing_and_no_error(made, stage):
    key = {"features": "dataset"}.get(stage, "run")
    assert "</html>" in render_of(changed(made, **{stage: {"result": {key: "gone-00000000"}}}))
    made.save()


def render_of(made: Made) -> str:
    made.save()
    return render(made.folder)


# What the run says against what is stored


def test_a_summary_that_the_tables_contradict_is_reported(made, found):
    own = found.forecasts.overall["vit"].accuracy.value
    assert warnings(found) == []
    told = {"accuracy": {"vit": {"test": own}, "logistic": {"test": 0.9}}}
    assert [w[:44] for w in warnings(read(changed(made, training={"result": told})))] == [
        "Training says that logistic regression was r"
    ]
    wrong = {"strategies": {"vit": {"pnl": 1.0, "currency": "USD"}}}
    (warning,) = warnings(read(changed(made, backtest={"result": wrong})))
    assert "vit ended at 1.00" in warning


def test_permuted_labels_are_told(made):
    (warning,) = warnings(read(changed(made, training={"config": {"permute_labels": True}})))
    assert "permuted" in warning


def test_training_rows_whose_labels_reach_into_the_test_period_are_told(made, found):
    assert found.forecasts.splits["train"].last + HORIZON * STEP <= found.forecasts.splits["test"].first
    far = {"horizon_ns": 10_000 * STEP}
    assert any("train and test overlap" in w for w in warnings(read(changed(made, features={"config": far}))))


# Data quality


def test_the_rules_are_added_up_over_instruments(made, found):
    said = {(rule.source, rule.name): (rule.rows, rule.excluded) for rule in found.quality.rules}
    asked = ask(made, "SELECT source, rule, sum(rows)::INT, sum(excluded)::INT FROM cleaning GROUP BY ALL")
    assert said == {(source, rule): (n, left_out) for source, rule, n, left_out in asked}
    text = words(made)
    assert "mbo stale 360 1.2 % 360 packets were lost before it, nothing has mended the book since" in text


def test_usable_time_is_that_of_the_book_rows(made, found):
    for instrument, n, usable, pieces, gap in ask(
        made,
        "SELECT instrument_id, count(*), count(*) FILTER (segment >= 0), "
        "count(DISTINCT segment) FILTER (segment >= 0), count(*) FILTER (rules & 64 > 0) "
        "FROM book_tensors GROUP BY 1",
    ):
        (grid,) = [g for g in found.quality.grids if g.instrument_id == instrument]
        assert (grid.rows, grid.usable, grid.segments, grid.by_rule["gap"]) == (n, usable, pieces, gap)
        assert f"{SYMBOLS[instrument]} {count(n)} {count(usable)} {spaces(share(usable, n))}" in words(made)


def test_runs_join_equal_neighbours_and_break_where_grid_times_are_missing():
    found = runs(np.array([10, 20, 30, 40, 70, 80]), np.array([0, 0, 4, 4, 4, 0]))
    assert found.start.tolist() == [0, 20, 60, 70]
    assert found.end.tolist() == [20, 40, 70, 80]
    assert found.state.tolist() == [0, 4, 4, 0]


def test_many_runs_are_drawn_on_bins_that_show_the_gravest_state():
    n = 50_000
    state = np.arange(n) % 2 * OTHER
    state[20_000] = LOST
    found = runs(10 * np.arange(1, n + 1), state)
    assert not found.exact
    assert len(found.start) <= MOST_RUNS
    (lost,) = np.flatnonzero(found.state == LOST)
    assert found.start[lost] < 10 * 20_001 <= found.end[lost]
    assert (found.start[0], found.end[-1] >= 10 * n) == (0, True)


def test_the_gravest_reason_names_a_grid_time():
    rules = np.array([0, 0, 8, 4, 4 | 256, 256 | 64, 32])
    usable = np.array([True, False, False, False, False, False, False])
    assert states(usable, rules).tolist() == [USABLE, OTHER, OTHER, BOOK, CLOSED, LOST, LOST]
    assert int(CleaningRule.CLOSED | CleaningRule.GAP) == 256 | 64


def test_frames_are_never_read(made, monkeypatch):
    columns = {}
    read_all = Archive.read

    def recorded(self, table, *args, **kwargs):
        columns.setdefault(table, []).append(kwargs.get("columns"))
        return read_all(self, table, *args, **kwargs)

    monkeypatch.setattr(Archive, "read", recorded)
    read(made)
    assert columns["book_tensors"]
    assert all(names and "frame" not in names for names in columns["book_tensors"])
    assert all(names for table in ("scores", "labels", "ledger") for names in columns[table])


# Trading

LAST = """
SELECT strategy, instrument_id, arg_max(value, ts) / 1e9 AS net,
    arg_max(value + spread_cost + impact_cost + commission, ts) / 1e9 AS gross,
    arg_max(spread_cost, ts) / 1e9 AS spread
FROM ledger GROUP BY ALL
"""


def test_profit_and_costs_are_those_of_the_last_marks(made, found):
    for name, net, gross, spread in ask(
        made, f"SELECT strategy, sum(net), sum(gross), sum(spread) FROM ({LAST}) GROUP BY 1"
    ):
        (one,) = [s for s in found.trading.strategies if s.name == name]
        assert one.pnl.value == pytest.approx(net)
        assert one.gross[-1] == pytest.approx(gross)
        assert one.costs["spread"] == pytest.approx(spread)
        assert spaces(money(net, "USD")) in words(made)
    for name, instrument, net, *_ in ask(made, LAST):
        (one,) = [s for s in found.trading.strategies if s.name == name]
        assert one.by_instrument[instrument] == pytest.approx(net)


def test_orders_and_fills_are_counted_by_strategy(made, found):
    for name, n in ask(made, "SELECT strategy, count(*) FROM fills GROUP BY 1"):
        (one,) = [s for s in found.trading.strategies if s.name == name]
        assert (one.fills, one.orders, one.unfilled) == (n, n, 0)


def ledger(*marks: tuple[int, int, int, int]):
    """Rows of (instrument, ts, value, commission), in currency."""
    instrument, ts, value, commission = zip(*marks, strict=True)
    columns = {"strategy": ["s"] * len(marks), "instrument_id": instrument, "ts": ts}
    columns |= {name: [0] * len(marks) for name in ("position", "mark", "cash", "spread_cost", "impact_cost")}
    columns |= {"value": [v * 10**9 for v in value], "commission": [c * 10**9 for c in commission]}
    return rows("ledger", columns)


def test_an_instrument_without_a_mark_keeps_its_last_one():
    one = strategy("s", ledger((1, 10, 5, 1), (1, 30, 7, 2), (2, 20, -3, 4), (2, 40, -1, 4)), 1)
    assert one.ts.tolist() == [10, 20, 30, 40]
    assert one.net.tolist() == [5, 2, 4, 6]
    assert one.gross.tolist() == [6, 7, 10, 12]
    assert one.by_instrument == {1: 7, 2: -1}


def test_drawdown_is_measured_from_the_highest_value_and_the_start():
    one = strategy("s", ledger(*((1, ts, value, 0) for ts, value in enumerate([-2, 3, 1, 4, -6]))), 1)
    assert one.drawdown.tolist() == [-2, 0, -2, 0, -10]


def test_the_interval_of_the_profit_is_that_of_its_changes():
    changes = np.random.default_rng(1).normal(1.0, 10.0, 2_000)
    value, low, high = pnl_interval(np.arange(2_000), np.cumsum(changes), 1)
    assert value == pytest.approx(changes.sum())
    # Independent changes: about 1.96 sqrt(n) standard deviations, a little more with 20 blocks.
    assert (high - low) / 2 == pytest.approx(2.09 * 10 * np.sqrt(2_000), rel=0.4)
    assert pnl_interval(np.arange(3), np.arange(3.0), 1).low is None


def test_a_long_equity_curve_stays_small_and_keeps_its_extremes(found):
    n = 400_000
    net = np.sin(np.arange(n) / 5_000.0)
    net[123_456] = -50.0
    long = replace(found.trading.strategies[0], ts=np.arange(n) * 10**9, net=net, gross=net + 1)
    chart = equity_chart([long], "USD")
    assert len(json.dumps(chart["data"])) < 200_000
    low = min(np.frombuffer(decoded(trace["y"])).min() for trace in chart["data"])
    assert low == -50.0


def decoded(values: dict[str, str]) -> bytes:
    assert values["dtype"] == "f8"
    return base64.b64decode(values["bdata"])


def test_strategies_that_never_traded_are_told_and_not_drawn(made, found):
    still = [
        replace(s, fills=0, positions={i: replace(h, lots=0 * h.lots) for i, h in s.positions.items()})
        for s in found.trading.strategies
    ]
    quiet = replace(found, trading=replace(found.trading, strategies=still))
    assert verdict(quiet).more.startswith("Strategy vit did not trade")
    assert not {"equity", "drawdown", "costs", "positions"} & set(charts(quiet, SYMBOLS))


def test_a_model_that_always_agrees_with_a_baseline_is_said_to(found):
    same = found.forecasts.ahead | {"majority": Interval(0.0, 0.0, 0.0)}
    judged = replace(found, forecasts=replace(found.forecasts, ahead=same))
    assert "and exactly as often as the majority class" in verdict(judged).sentence


# The page


def test_a_report_with_research_stays_small(made):
    report = build_report(made.folder)
    assert report.stat().st_size < 8_000_000


def test_every_chart_of_research_is_in_the_page(made, found):
    page = render(made.folder)
    names = list(charts(found, SYMBOLS))
    assert names == [
        *("usable", "learning_loss", "learning_accuracy", "accuracy", "reliability"),
        *("equity", "drawdown", "costs", "positions"),
    ]
    assert all(page.count(f'id="chart-{name}"') == 1 for name in names)


def test_names_from_outside_stay_out_of_the_charts(tmp_path, monkeypatch):
    assert plain("ESH6-ESM6", "x") == "ESH6-ESM6"
    assert plain(HOSTILE, "x") == "x"
    monkeypatch.setitem(SYMBOLS, 1, HOSTILE)
    made = make(tmp_path, instruments=1, steps=1_000)
    archive = open_archive(str(made.folder / "archive"))
    book = archive.read("ledger", RunPartition(TESTED)).to_pydict() | {"strategy": None}
    book["strategy"] = [HOSTILE] * len(book["ts"])
    archive.replace("ledger", RunPartition(TESTED), {"h": rows("ledger", book)}, ["all"])
    page = render(made.folder)
    assert HOSTILE not in page
    (data,) = re.findall(r'id="report-data">(.*?)</script>', page, re.DOTALL)
    assert "alert" not in data
    assert spaces(HOSTILE) in Words(page).text


def test_equal_folders_give_equal_reports(made):
    assert render(made.folder) == render(made.folder)


def test_the_stages_and_what_they_were_asked_are_in_the_page(made):
    text = words(made)
    assert "features 11.8 s training 74.2 s backtest 9.6 s together 115 s" in text
    assert f"tickworks backtest reproduce {made.folder / 'report.html'}" in text
    for name in (DATASET, TRAINED, TESTED, '"horizon_ns": 2500000000', made.run["data_commit"]):
        assert name in text


def test_the_committed_tables_of_every_layout_are_listed(made):
    text = words(made)
    for table, place in (
        ("book_tensors 12,000", f"{DATASET} 2026-01-05"),
        ("definitions 2", "XCME 2026-01-05 channel 310"),
        ("learning 9", TRAINED),
    ):
        assert re.search(rf"{table} \S+ \w+ [\d.,]+ 1 1 {place}", text)


# The record


def test_the_report_alone_holds_the_record(made):
    run = made.run | {"note": HOSTILE + "\u2028 é", "nothing": None, "number": 0.1 + 0.2}
    other = replace(made, run=run)
    other.save()
    report = build_report(made.folder)
    assert run_record(report) == run
    assert run_record(made.folder) == run_record(made.folder / "run.json") == run
    made.save()


@pytest.mark.parametrize(
    "content", ["<html></html>", "", '<script type="application/json" id="run-record">[1]</script>']
)
def test_a_page_without_a_record_is_refused_with_its_name(tmp_path, content):
    page = tmp_path / "page.html"
    page.write_text(content)
    with pytest.raises(RecordError, match=r"page\.html"):
        run_record(page)


def test_a_missing_report_is_refused_with_its_name(tmp_path):
    with pytest.raises(RecordError, match="gone"):
        run_record(tmp_path / "gone")


def test_every_cleaning_rule_has_a_meaning():
    assert {str(rule.name).lower() for rule in CleaningRule} <= set(research_module.RULES)


def test_the_learning_curve_knows_its_best_epoch(made, found):
    ((epoch, loss),) = ask(
        made, "SELECT epoch, validation_loss FROM learning ORDER BY validation_loss LIMIT 1"
    )
    assert found.curve.epoch[found.curve.best] == epoch
    assert f"lowest after epoch {epoch}: {loss:.4f} nats" in words(made)


def test_the_folder_may_be_given_by_a_relative_path(made, monkeypatch):
    monkeypatch.chdir(made.folder.parent)
    assert "reproduce " + made.folder.name in Words(render(Path(made.folder.name))).text
