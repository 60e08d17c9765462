"""The research part of the report: what was found, in words and tables.

Read from ``run.json`` (key "research") and from the archive's derived and result tables. Any stage may be
missing: a run may have skipped research, or stopped in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from operations.report import research_figures as figures
from operations.report.cleaning import READ, Grid, Quality, quality
from operations.report.figures import Chart
from operations.report.forecasts import BOUND, Forecasts, forecasts
from operations.report.interval import Interval
from operations.report.learning import Curve, learning
from operations.report.parts import Json, Table, Verdict
from operations.report.research_figures import label
from operations.report.trading import Strategy, Trading, trading
from operations.report.wording import (
    MINUS,
    NONE,
    count,
    digits,
    duration,
    moment,
    money,
    percent,
    plural,
    points,
    share,
)
from workloads.ticks.archive import Archive

STAGES = ("features", "training", "backtest")
SPOKEN = {"majority": "the majority class"}
CLASSES = ("down", "flat", "up")
RULES = {
    READ: "all rows that were read",
    "crossed": "best bid above the best offer at the event's end",
    "locked": "best bid equal to the best offer",
    "empty": "a side without orders",
    "out_of_band": "price outside the venue's limits",
    "duplicate": "came before already",
    "stale": "packets were lost before it, nothing has mended the book since",
    "gap": "a packet of its interval never came",
    "outlier": "trade far outside its book",
    "closed": "not in continuous trading",
    "in_no_time_bar": "trades whose time bar met a loss, a session's end or the end of the data",
    "in_no_volume_bar": "trades whose volume bar was not filled before one of these",
    "in_no_dollar_bar": "trades whose dollar bar was not filled before one of these",
    "unscaled": "no definition: price in wire units",
}
"""The cleaning rules in a reader's words (`workloads.ticks.codes.CleaningRule`)."""
TOLERANCE = 1e-9
"""How far a share may differ between the run's summary and the tables."""
CENT = 0.01


@dataclass(frozen=True)
class Research:
    """What the research stages left behind; parts that are not there are None or empty."""

    stages: dict[str, Json] = field(default_factory=dict)
    """By stage: ``config`` and ``result`` as in run.json."""
    skipped: str | None = None
    """Why there is no research, or not all of it."""
    quality: Quality = field(default_factory=Quality)
    curve: Curve | None = None
    forecasts: Forecasts | None = None
    trading: Trading = field(default_factory=Trading)
    simulated: bool = False
    """The source was the simulator: a bound could be known."""

    @property
    def there(self) -> bool:
        """Whether any stage ran."""
        return bool(self.stages)

    def config(self, stage: str) -> Json:
        """What a stage was asked for; empty where it did not run."""
        return self.stages.get(stage, {}).get("config") or {}

    def result(self, stage: str) -> Json:
        """What a stage said at its end; empty where it did not run."""
        return self.stages.get(stage, {}).get("result") or {}

    @property
    def horizon_ns(self) -> int | None:
        """How far ahead the labels look."""
        value = self.config("features").get("horizon_ns")
        return int(value) if value else None

    @property
    def currency(self) -> str:
        """Of the first strategy's money; empty where unknown."""
        strategies = self.result("backtest").get("strategies") or {}
        return next((str(one.get("currency") or "") for one in strategies.values()), "")


def research(run: Json, folder: Path, archive: Archive) -> Research:
    """Read everything that the research stages of a run left behind."""
    said = run.get("research")
    simulated = (run.get("source") or {}).get("kind") == "simulator"
    if not isinstance(said, Mapping):
        return Research(simulated=simulated)
    stages = {name: said[name] for name in STAGES if isinstance(said.get(name), Mapping)}
    found = Research(stages=stages, simulated=simulated)
    results = {name: found.result(name) for name in STAGES}
    reasons = [said.get("skipped"), *(results[name].get("skipped") for name in STAGES)]
    dataset = results["features"].get("dataset")
    trained, tested = results["training"].get("run"), results["backtest"].get("run")
    strategies = list(results["backtest"].get("strategies") or {})
    return Research(
        stages=stages,
        skipped=next((str(reason) for reason in reasons if reason), None),
        quality=quality(archive, str(dataset)) if dataset else Quality(),
        curve=learning(archive, str(trained)) if trained else None,
        forecasts=forecasts(archive, folder, str(dataset), str(trained), found.horizon_ns)
        if dataset and trained
        else None,
        trading=trading(archive, str(tested), strategies, found.horizon_ns or 1) if tested else Trading(),
        simulated=simulated,
    )


# The first thing that is read


def verdict(found: Research) -> Verdict:
    """Did the forecast beat the plain ones, how far is the bound, was money made: with intervals."""
    if not found.there:
        why = f"{_sentence(found.skipped)}" if found.skipped else "This run stored ticks and ended there."
        return Verdict("unproven", "Research skipped" if found.skipped else "No research", why)
    if found.forecasts is None:
        why = _sentence(found.skipped) if found.skipped else "No scores of a test period are stored."
        done = [name for name in found.stages if not found.result(name).get("skipped")]
        after = f" Done: {', '.join(done)}." if done else ""
        return Verdict("unproven", "Research incomplete", f"{why}{after}")
    forecast, money_made = _forecast_sentence(found), _money_sentence(found)
    if too_good := ahead_of_bound(found.forecasts):
        above = " and ".join(f"{label(name)} is {_gap(gap)}" for name, gap in too_good.items())
        return Verdict(
            "unexplained",
            "Look-ahead suspected",
            f"{above} above the best forecast that anybody could make on the same decisions: something that "
            "it was made from knows the future. Believe no figure of this run.",
            forecast,
        )
    peers = [gap for name, gap in found.forecasts.ahead.items() if name != BOUND]
    skill = bool(peers) and all(gap.above_zero for gap in peers)
    pnl = found.trading.strategies[0].pnl if found.trading.strategies else None
    if skill and pnl is not None and pnl.above_zero:
        state, words = "proven", "Skill, and a profit after costs"
    elif skill and pnl is not None and pnl.below_zero:
        state, words = "explained", "Skill, but a loss after costs"
    elif skill:
        state, words = "explained", "Skill, but no proven profit"
    elif "majority" in (gaps := found.forecasts.ahead) and gaps["majority"].above_zero:
        state, words = "explained", "Skill, but none beyond logistic regression"
    elif pnl is not None and pnl.above_zero:
        state, words = "explained", "A profit, but no proven skill"
    else:
        state, words = "unproven", "No proven skill"
    return Verdict(state, words, forecast, money_made)


def ahead_of_bound(found: Forecasts) -> dict[str, Interval]:
    """Models whose accuracy is above the simulator's bound by more than chance explains."""
    return {name: gap for name, gap in found.beyond_bound.items() if gap.above_zero}


def _forecast_sentence(found: Research) -> str:
    scored = found.forecasts
    assert scored is not None
    accuracy = scored.overall[scored.main].accuracy
    ahead = f" about the next {duration(found.horizon_ns)}" if found.horizon_ns else ""
    compared = [
        _compared(gap, SPOKEN.get(name) or label(name)) for name, gap in scored.ahead.items() if name != BOUND
    ]
    text = f"{label(scored.main)} is right {_with_range(accuracy)} of the time{ahead}"
    if compared:
        text += f": {' and '.join(compared)}"
    text += f", on {plural(scored.n, 'decision')} later than its training"
    best = scored.overall.get(BOUND)
    if best is not None:
        return f"{text}. The best possible forecast of this simulator is right {_with_range(best.accuracy)}."
    if found.simulated:
        return f"{text}. The simulator's bound is not known here."
    return f"{text}. A recorded market has no known bound."


def _compared(gap: Interval, other: str) -> str:
    if gap.value == 0 and gap.low == gap.high == 0:
        return f"exactly as often as {other}"
    return f"{_gap(gap)} {'more' if gap.value >= 0 else 'less'} than {other}"


def _money_sentence(found: Research) -> str:
    if not found.trading.strategies:
        return "No backtest is stored."
    first = found.trading.strategies[0]
    pnl, currency = first.pnl, found.currency
    if not first.traded:
        return f"Strategy {first.name} did not trade: no forecast was worth the cost of acting on it."
    did = "made" if pnl.value >= 0 else "lost"
    text = f"After costs, strategy {first.name} {did} {money(abs(pnl.value), currency)}"
    if pnl.low is None or pnl.high is None:
        return f"{text}; too few marks for an interval."
    reading = (
        "a profit beyond chance"
        if pnl.above_zero
        else "a loss beyond chance"
        if pnl.below_zero
        else "which chance alone explains"
    )
    return f"{text} (95 %: {money(pnl.low, '')} to {money(pnl.high, currency)}), {reading}."


def warnings(found: Research) -> list[str]:
    """What the verdict doesn't say and nobody should overlook."""
    out = []
    scored = found.forecasts
    if scored is not None:
        out += _overlap(scored, found.horizon_ns)
        said = found.result("training").get("accuracy") or {}
        for name, by_split in said.items():
            own = scored.overall.get(name)
            told = by_split.get("test") if isinstance(by_split, Mapping) else None
            if own is not None and told is not None and abs(told - own.accuracy.value) > TOLERANCE:
                out.append(
                    f"Training says that {label(name)} was right {percent(told, 3)} of the time in the test "
                    f"period; the stored scores and labels say {percent(own.accuracy.value, 3)}."
                )
    if found.config("training").get("permute_labels"):
        out.append("The labels were permuted before training: any skill here is an error of ours.")
    strategies = found.result("backtest").get("strategies") or {}
    for one in found.trading.strategies:
        told = (strategies.get(one.name) or {}).get("pnl")
        if told is not None and abs(told - one.pnl.value) > CENT:
            out.append(
                f"The backtest says that {one.name} ended at {money(told, found.currency)}; the stored "
                f"ledger says {money(one.pnl.value, found.currency)}."
            )
    return out


def _overlap(scored: Forecasts, horizon_ns: int | None) -> list[str]:
    train, test = scored.splits.get("train"), scored.splits.get("test")
    if train is None or test is None or train.last + (horizon_ns or 0) <= test.first:
        return []
    return [
        f"Training rows reach to {moment(train.last)} and their labels look {duration(horizon_ns or 0)} "
        f"further, but the test period begins at {moment(test.first)}: train and test overlap."
    ]


def forecast_figures(found: Research) -> list[tuple[str, str, str]]:
    """(name, figure, note)."""
    scored = found.forecasts
    if scored is None:
        return []
    main = scored.overall[scored.main]
    out = [("Accuracy", percent(main.accuracy.value), _range(main.accuracy))]
    for name, gap in scored.ahead.items():
        if name != BOUND:
            out.append((f"Against {label(name)}", f"{points(gap.value)} points", _points_range(gap)))
    best = scored.overall.get(BOUND)
    if best is not None:
        out.append(("Best possible", percent(best.accuracy.value), _range(best.accuracy)))
    out.append(("Decisions", count(scored.n), "of the test period"))
    return out


def backtest_figures(found: Research) -> list[tuple[str, str, str]]:
    """(name, figure, note): the net profit of each strategy."""
    return [
        (f"Net profit, {one.name}", money(one.pnl.value, found.currency), _money_range(one.pnl))
        for one in found.trading.strategies[:4]
    ]


# Charts


def charts(found: Research, symbols: dict[int, str]) -> dict[str, Chart]:
    """Every chart that there is data for."""
    out: dict[str, Chart] = {}
    if found.quality.grids:
        out["usable"] = figures.usable_chart(found.quality.grids, symbols)
    if found.curve is not None:
        out |= figures.learning_charts(found.curve)
    if found.forecasts is not None:
        out["accuracy"] = figures.accuracy_chart(found.forecasts, symbols)
        if found.forecasts.reliability:
            out["reliability"] = figures.reliability_chart(found.forecasts)
    strategies = found.trading.strategies
    if any(one.traded for one in strategies):
        out["equity"] = figures.equity_chart(strategies, found.currency)
        out["drawdown"] = figures.drawdown_chart(strategies, found.currency)
        out["costs"] = figures.cost_chart(strategies, found.currency)
        if positions := figures.position_chart(strategies, symbols):
            out["positions"] = positions
    return out


# Tables


def rules_table(found: Research) -> Table | None:
    """What each rule touched in each source, and how much of it was left out."""
    rules = found.quality.rules
    if not rules:
        return None
    read = {rule.source: rule.rows for rule in rules if rule.name == READ}
    order = {name: place for place, name in enumerate(RULES)}
    rows = [
        [
            rule.source,
            "read" if rule.name == READ else rule.name.replace("_", " "),
            count(rule.rows),
            NONE if rule.name == READ else share(rule.rows, read.get(rule.source, 0)),
            NONE if rule.name == READ else count(rule.excluded),
            RULES.get(rule.name, ""),
        ]
        for rule in sorted(rules, key=lambda r: (r.source, order.get(r.name, len(order)), r.name))
        if rule.rows or rule.name == READ
    ]
    return Table(["Source", "Rule", "Rows", "Of all", "Left out", "Meaning"], rows, words=(0, 1, 5))


def grid_table(found: Research, symbols: dict[int, str]) -> Table | None:
    """How much of each instrument's time is usable, and what takes the rest."""
    if not found.quality.grids:
        return None
    rows = [
        [
            symbols.get(grid.instrument_id, str(grid.instrument_id)),
            count(grid.rows),
            count(grid.usable),
            share(grid.usable, grid.rows),
            count(grid.segments),
            _why(grid),
        ]
        for grid in sorted(found.quality.grids, key=lambda g: -g.rows)
    ]
    head = ["Instrument", "Grid times", "Usable", "Share", "Stretches", "What took the rest"]
    return Table(head, rows, words=(0, 5))


def quality_sentence(found: Research) -> str:
    """What the features stage made of the ticks."""
    result, config = found.result("features"), found.config("features")
    step, horizon = config.get("step_ns"), config.get("horizon_ns")
    notes = {
        "frames": f" every {duration(step)}" if step else "",
        "labels": f" (the move of the mid over {duration(horizon)})" if horizon else "",
    }
    parts = [
        f"{plural(result[key], noun)}{notes.get(key, '')}"
        for noun, key in (("instrument", "instruments"), ("grid time", "frames"), ("label", "labels"))
        if isinstance(result.get(key), int)
    ]
    return f"Dataset {result.get('dataset', NONE)}: {', '.join(parts)}." if parts else ""


def model_table(found: Research) -> Table | None:
    """Each model on the whole test period, and how far the trained one is from it."""
    scored = found.forecasts
    if scored is None:
        return None
    rows = []
    for name, one in scored.overall.items():
        gap = scored.ahead.get(name)
        rows.append(
            [
                label(name),
                count(one.n),
                percent(one.accuracy.value),
                _range(one.accuracy),
                f"{one.log_loss:.4f}",
                NONE if gap is None else points(gap.value),
                NONE if gap is None else _points_range(gap),
            ]
        )
    head = ["Model", "Decisions", "Accuracy", "95 % interval", "Log loss", f"{label(scored.main)} minus it"]
    return Table([*head, "95 % interval"], rows)


def instrument_table(found: Research, symbols: dict[int, str]) -> Table | None:
    """Accuracy of each model for each instrument."""
    scored = found.forecasts
    if scored is None or len(scored.by_instrument) < 2:
        return None
    models = list(scored.overall)
    rows = []
    for one in sorted(scored.by_instrument, key=lambda i: -scored.by_instrument[i][scored.main].n):
        by = scored.by_instrument[one]
        cells = [_short(by[name].accuracy) if name in by else NONE for name in models]
        rows.append([symbols.get(one, str(one)), count(by[scored.main].n), *cells])
    return Table(["Instrument", "Decisions", *(label(name) for name in models)], rows)


def confusion(found: Research) -> list[dict[str, Any]]:
    """What came true (rows) against what the trained model chose (cells)."""
    scored = found.forecasts
    if scored is None:
        return []
    out = []
    for name, counts in zip(CLASSES, scored.confusion.tolist(), strict=True):
        total = sum(counts)
        cells = [
            {
                "count": count(n),
                "share": share(n, total),
                "shade": round(n / total, 3) if total else 0,
                "hit": CLASSES[place] == name,
            }
            for place, n in enumerate(counts)
        ]
        out.append({"name": name, "total": count(total), "cells": cells})
    return out


def training_facts(found: Research) -> list[tuple[str, str, str]]:
    """(name, value, note) of how the model was trained."""
    result, config = found.result("training"), found.config("training")
    if not result:
        return []
    out = []
    splits = found.forecasts.splits if found.forecasts else {}
    for name in ("train", "validation", "test"):
        n = (result.get("samples") or {}).get(name)
        if n is None:
            continue
        split = splits.get(name)
        note = (
            f"{moment(split.first, digits=0)} to {moment(split.last, day=False, digits=0)}" if split else ""
        )
        out.append((f"{name.capitalize()} rows", count(n), note))
    if result.get("epochs") is not None:
        ends = plural(int(result.get("restarts") or 0), "restart")
        out.append(("Epochs", count(result["epochs"]), ends))
    if result.get("device") is not None:
        workers = plural(int(result["workers"]), "worker") if result.get("workers") else ""
        out.append(("Trained on", str(result["device"]), workers))
    seed = result.get("seed", config.get("seed"))
    if seed is not None:
        out.append(("Seed", str(seed), "equal inputs and seed give equal scores"))
    return out


def statistics_table(found: Research) -> Table | None:
    """The backtest's statistics, a column for each strategy."""
    strategies = found.trading.strategies
    if not strategies:
        return None
    said = found.result("backtest").get("strategies") or {}
    currency = found.currency
    told = {one.name: said.get(one.name) or {} for one in strategies}

    def row(name: str, show: Any) -> list[str]:
        return [name, *(show(one, told[one.name]) for one in strategies)]

    rows = [
        row("Net profit", lambda one, _: money(one.pnl.value, currency)),
        row("95 % interval", lambda one, _: _money_range(one.pnl)),
        row("Before costs", lambda one, _: money(float(one.gross[-1]), currency)),
        row("Costs", lambda one, _: money(sum(one.costs.values()), currency)),
        row("Costs, share of gross", lambda one, _: _cost_share(one)),
        row("Capital", lambda _, s: _or_none(s.get("capital"), lambda v: money(v, currency))),
        row("Return on capital", _return),
        row("Sharpe ratio, a year", lambda _, s: _or_none(s.get("sharpe"), digits)),
        row("95 % interval", lambda _, s: _pair(s.get("sharpe_low"), s.get("sharpe_high"))),
        row("Deepest drawdown", lambda one, _: money(float(one.drawdown.min()), currency)),
        row("... of the highest value", lambda _, s: _or_none(s.get("max_drawdown"), _percent_2)),
        row("Turnover, times capital", lambda _, s: _or_none(s.get("turnover"), digits)),
        row("Round trips", lambda _, s: _or_none(s.get("round_trips"), count)),
        row("... with a profit (hit rate)", lambda _, s: _or_none(s.get("hit_rate"), percent)),
        row("Mean holding time", lambda _, s: _or_none(s.get("holding_seconds"), _seconds)),
        row("Orders", lambda one, _: count(one.orders)),
        row("... that filled nothing", lambda one, _: count(one.unfilled)),
        row("Fills", lambda one, _: count(one.fills)),
    ]
    return Table(["", *(one.name for one in strategies)], [r for r in rows if set(r[1:]) != {NONE}])


def profit_table(found: Research, symbols: dict[int, str]) -> Table | None:
    """Net profit by instrument and strategy."""
    strategies = found.trading.strategies
    ids = sorted({i for one in strategies for i in one.by_instrument})
    if len(ids) < 2:
        return None
    rows = [
        [
            symbols.get(i, str(i)),
            *(money(one.by_instrument.get(i, 0.0), found.currency) for one in strategies),
        ]
        for i in ids
    ]
    return Table(["Net profit", *(one.name for one in strategies)], rows)


def backtest_sentence(found: Research) -> str:
    """How orders met the market."""
    config = found.config("backtest")
    latency = config.get("latency_ns")
    period = found.result("backtest").get("period") or {}
    when = ""
    if isinstance(period.get("start"), int) and isinstance(period.get("end"), int):
        when = f"From {moment(period['start'], digits=0)} to {moment(period['end'], digits=0)} UTC. "
    late = f"{duration(latency)} after its decision" if latency else "after its decision"
    return (
        f"{when}An order reaches the exchange {late} and takes the opposite quote of the first book that "
        "comes then, at most what is displayed; the rest is cancelled."
    )


def backtest_facts(found: Research) -> list[tuple[str, str, str]]:
    """(name, value, note): the terms on which the strategies traded."""
    config = found.config("backtest")
    cost, position = config.get("cost") or {}, config.get("position") or {}
    limits = plural(int(position["max_position"]), "lot") if position.get("max_position") else NONE
    out = [
        ("Decision to exchange", _or_none(config.get("latency_ns"), duration), "latency of every order"),
        ("Fill to strategy", _or_none(config.get("report_latency_ns"), duration), "until it knows of it"),
        (
            "Commission",
            _or_none(cost.get("commission"), lambda v: money(v, found.currency)),
            "a lot and side",
        ),
        ("Impact", _or_none(cost.get("impact"), digits), "factor of the square-root law"),
        ("Largest position", limits, "of an instrument, long or short"),
        ("Marked every", _or_none(config.get("mark_ns"), duration), "at mid"),
    ]
    left_out = found.result("backtest").get("left_out")
    if isinstance(left_out, Mapping) and left_out:
        out.append(("Not traded", plural(len(left_out), "instrument"), "see the run's record for why"))
    return [fact for fact in out if fact[1] != NONE]


def identity(found: Research) -> list[tuple[str, str]]:
    """Names by which the results are found and repeated."""
    out = []
    for stage, key, name in (
        ("features", "dataset", "Dataset"),
        ("training", "run", "Training run"),
        ("backtest", "run", "Backtest run"),
    ):
        result = found.result(stage)
        if result.get(key):
            out.append((name, str(result[key])))
            commit = result.get("data_commit")
            commit = commit.get("id") if isinstance(commit, Mapping) else commit
            out.append(("made from data commit", str(commit or NONE)))
    for stage in ("training", "backtest"):
        seed = found.config(stage).get("seed", found.result(stage).get("seed"))
        if seed is not None:
            out.append((f"Seed of the {stage}", str(seed)))
    return out


def configs(found: Research) -> list[tuple[str, str]]:
    """(stage, its config as readable JSON)."""
    return [
        (stage, json.dumps(found.config(stage), indent=2, ensure_ascii=False))
        for stage in STAGES
        if found.config(stage)
    ]


def _why(grid: Grid) -> str:
    if grid.usable == grid.rows:
        return "nothing"
    if not grid.by_rule:
        return "no rule named"
    return ", ".join(f"{name.replace('_', ' ')} {count(n)}" for name, n in list(grid.by_rule.items())[:3])


def _sentence(text: str | None) -> str:
    text = (text or "").strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _with_range(interval: Interval) -> str:
    if interval.low is None:
        return percent(interval.value)
    return f"{percent(interval.value)} ({_range(interval)})"


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "no interval: too few"
    return f"{100 * interval.low:.1f} to {percent(interval.high)}".replace("-", MINUS)


def _short(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return percent(interval.value)
    return f"{percent(interval.value)} ± {100 * (interval.high - interval.low) / 2:.1f}"


def _gap(interval: Interval) -> str:
    size = f"{100 * abs(interval.value):.1f} points"
    if interval.low is None or interval.high is None:
        return size
    return f"{size} ({_points_range(interval)})"


def _points_range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "no interval: too few"
    return f"{points(interval.low)} to {points(interval.high)}"


def _money_range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return NONE
    return f"{money(interval.low, '')} to {money(interval.high, '')}"


def _cost_share(one: Strategy) -> str:
    gross, paid = float(one.gross[-1]), sum(one.costs.values())
    return share(paid, gross) if gross > 0 else NONE


def _return(one: Strategy, said: Json) -> str:
    capital = said.get("capital")
    return percent(one.pnl.value / capital, 2) if capital else NONE


def _percent_2(value: float) -> str:
    return percent(value, 2)


def _seconds(value: float) -> str:
    return duration(value * 1e9)


def _or_none(value: Any, show: Any) -> str:
    known = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return str(show(value)) if known else NONE


def _pair(low: Any, high: Any) -> str:
    return NONE if low is None or high is None else f"{digits(low)} to {digits(high)}"
