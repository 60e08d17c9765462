"""Charts of the research flow. As in `operations.report.figures`, colours are names of the page's theme.

Names of models, strategies and instruments come from outside: only plain ones go into a chart.
"""

import re

import numpy as np
from numpy.typing import NDArray

from operations.report import series
from operations.report.cleaning import BOOK, CLOSED, LOST, OTHER, REASONS, USABLE, Grid
from operations.report.figures import Chart, Figure, milliseconds, packed, time_axis
from operations.report.forecasts import BOUND, Forecasts
from operations.report.interval import Interval
from operations.report.learning import Curve
from operations.report.trading import Strategy
from operations.report.wording import money, percent, plural, share

MOST_ROWS = 8
"""Instruments in one chart; the most active ones."""
_POINTS = 1_200
"""Pixel columns of a line over time."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:+-]{0,23}")
LABELS = {
    "logistic": "logistic regression",
    "majority": "majority class",
    BOUND: "best possible (simulator)",
}
_MODEL = {"logistic": ("$b", "square"), "majority": ("$muted", "diamond"), BOUND: ("$good", "line-ns-open")}
_SHORT = {"commission": "fees"}
"""So that five names fit below the bars on a phone."""
_LINES = (("$a", "solid"), ("$b", "solid"), ("$wall", "solid"), ("$ask", "solid"), ("$muted", "solid"))
_STATES = {
    USABLE: "$event-soft",
    OTHER: "$wall",
    BOOK: "$b",
    CLOSED: "$muted",
    LOST: "$bad",
}


def plain(name: str, otherwise: str) -> str:
    """A name that may stand in a chart, or another one: Plotly would read markup in it."""
    return name if _PLAIN.fullmatch(name) else otherwise


def label(model: str) -> str:
    """How a model is called."""
    return LABELS.get(model, plain(model, "the trained model"))


def usable_chart(grids: list[Grid], symbols: dict[int, str]) -> Chart:
    """One bar of time for each instrument, coloured by why it is not usable."""
    shown = sorted(grids, key=lambda g: -g.rows)[:MOST_ROWS]
    names = [plain(symbols.get(g.instrument_id, ""), f"id {g.instrument_id}") for g in shown]
    traces = []
    drawn = [g.runs for g in shown if len(g.runs.start)]
    span = max((int(r.end[-1]) for r in drawn), default=0) - min((int(r.start[0]) for r in drawn), default=0)
    least = span / 400
    for state, color in _STATES.items():
        xs, ys = [], []
        for row, grid in enumerate(shown):
            mine = grid.runs.state == state
            start, end = grid.runs.start[mine], grid.runs.end[mine]
            if state != USABLE:  # a single grid time must be seen
                wider = np.maximum(0, least - (end - start)) / 2
                start, end = start - wider, end + wider
            xs.append(np.stack([start / 1e6, end / 1e6, np.full(len(start), np.nan)], axis=1).ravel())
            ys.append(np.full(3 * len(start), float(row)))
        x = np.concatenate(xs) if xs else np.zeros(0)
        if not len(x):
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": REASONS[state],
                "x": packed(x),
                "y": packed(np.concatenate(ys), "float32"),
                "connectgaps": False,
                "line": {"color": color, "width": 15},
                "hovertemplate": f"{REASONS[state]}, %{{x}}<extra></extra>",
            }
        )
    rows, usable = sum(g.rows for g in grids), sum(g.usable for g in grids)
    exact = all(g.runs.exact for g in shown)
    left_out = f" The {len(shown)} instruments with the most grid times." if len(grids) > len(shown) else ""
    title = (
        "All of the grid time is usable"
        if usable == rows
        else f"{share(usable, rows)} of the grid time is usable"
    )
    return {
        "title": title,
        "caption": "When each instrument's book could be used; very short breaks are drawn wider. Windows of "
        "history and labels stay inside stretches without a break."
        + ("" if exact else " Drawn on bins, each in the gravest state that it holds.")
        + left_out,
        "height": 90 + 34 * len(shown),
        "data": traces,
        "layout": {
            "showlegend": True,
            "xaxis": time_axis("venue time (UTC)"),
            "yaxis": {
                "tickvals": list(range(len(shown))),
                "ticktext": names,
                "range": [len(shown) - 0.4, -0.6],
                "showgrid": False,
                "zeroline": False,
            },
        },
    }


def learning_charts(curve: Curve) -> dict[str, Chart]:
    """Loss and accuracy by epoch."""
    epochs = curve.epoch
    charts: dict[str, Chart] = {}
    losses = [("train", curve.train_loss, "$b", "dot"), ("validation", curve.validation_loss, "$a", "solid")]
    axis = {"title": {"text": "epoch"}, "dtick": max(1, int(np.ptp(epochs)) // 10), "rangemode": "tozero"}
    if len(epochs) and (~np.isnan(np.concatenate([curve.train_loss, curve.validation_loss]))).any():
        best = curve.best
        title = "Loss by epoch"
        if best is not None:
            lowest = f"{curve.validation_loss[best]:.4f} nats"
            title = f"Validation loss is lowest after epoch {epochs[best]}: {lowest}"
        charts["learning_loss"] = {
            "title": title,
            "caption": "Mean cross-entropy in nats; epoch 0 is before the first step. Guessing three classes "
            "evenly gives 1.0986. Validation rows come later in time than all training rows.",
            "data": [
                _curve(name, epochs, values, color, dash)
                for name, values, color, dash in losses
                if (~np.isnan(values)).any()
            ],
            "layout": {
                "showlegend": True,
                "hovermode": "x unified",
                "xaxis": axis,
                "yaxis": {"title": {"text": "cross-entropy (nats)"}, "tickformat": ".3~f"},
            },
        }
    if (~np.isnan(curve.validation_accuracy)).any():
        last = curve.validation_accuracy[~np.isnan(curve.validation_accuracy)][-1]
        charts["learning_accuracy"] = {
            "title": f"Validation accuracy ends at {percent(float(last))}",
            "caption": "Share of validation rows whose most probable class came true. The test period is not "
            "looked at while training.",
            "data": [_curve("validation", epochs, 100 * curve.validation_accuracy, "$a", "solid", ".1f")],
            "layout": {
                "showlegend": False,
                "hovermode": "x unified",
                "xaxis": axis,
                "yaxis": {"title": {"text": "accuracy (%)"}, "tickformat": ".3~f"},
            },
        }
    return charts


def accuracy_chart(found: Forecasts, symbols: dict[int, str]) -> Chart:
    """Accuracy with its interval: a row for all, one for each instrument, a mark for each model."""
    ids = sorted(found.by_instrument, key=lambda i: -found.by_instrument[i][found.main].n)[:MOST_ROWS]
    rows = [("all", found.overall)]
    if len(found.by_instrument) > 1:
        rows += [(plain(symbols.get(i, ""), f"id {i}"), found.by_instrument[i]) for i in ids]
    traces = []
    models = list(found.overall)
    for place, model in enumerate(models):
        color, symbol = _MODEL.get(model, ("$a", "circle"))
        there = [(row, by[model].accuracy) for row, (_, by) in enumerate(rows) if model in by]
        y = np.array([row + 0.17 * (place - (len(models) - 1) / 2) for row, _ in there])
        values = [interval for _, interval in there]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(model),
                "x": packed(np.array([100 * v.value for v in values])),
                "y": packed(y),
                "error_x": _bars(values) | {"color": color},
                "marker": {"color": color, "size": 9, "symbol": symbol, "line": {"color": color, "width": 2}},
                "customdata": [_range(v) for v in values],
                "hovertemplate": f"{label(model)} %{{x:.1f}} %, %{{customdata}}<extra></extra>",
            }
        )
    main, best = found.overall[found.main].accuracy, found.overall.get(BOUND)
    title = f"{label(found.main)}: right {percent(main.value)} of the time"
    if best:
        title += f"; the best possible is {percent(best.accuracy.value)}"
    return {
        "title": title,
        "caption": "Share of decisions of the test period whose most probable class (down, flat, up) came "
        "true. Whiskers: 95 % intervals."
        + (
            " The best possible is the optimal filter, which knows the simulator's parameters: no forecast "
            "has a higher expected accuracy."
            if best
            else ""
        ),
        "height": 100 + 46 * max(len(rows), 2) + (24 if len(rows) == 1 else 0),
        "data": traces,
        "layout": {
            "showlegend": True,
            "xaxis": {"title": {"text": "accuracy (%)"}, "showgrid": True, "tickformat": ".3~f"},
            "yaxis": {
                "tickvals": list(range(len(rows))),
                "ticktext": [name for name, _ in rows],
                "range": [len(rows) - 0.45, -0.55],
                "showgrid": False,
                "zeroline": False,
            },
        },
    }


def reliability_chart(found: Forecasts) -> Chart:
    """How often a choice came true by how sure the model was of it; on the diagonal it knows."""
    traces: list[Figure] = []
    every = list(found.reliability.values())
    low = min(float(min(r.confidence.min(), *(h.value for h in r.hits))) for r in every)
    high = max(float(max(r.confidence.max(), *(h.value for h in r.hits))) for r in every)
    ends = np.array([100 * low, 100 * high])
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "perfectly calibrated",
            "x": packed(ends),
            "y": packed(ends),
            "line": {"color": "$muted", "width": 1, "dash": "dash"},
            "hoverinfo": "skip",
        }
    )
    for model, one in reversed(list(found.reliability.items())):
        color, symbol = _MODEL.get(model, ("$a", "circle"))
        bars = {"error_y": _bars(one.hits) | {"color": color}} if model == found.main else {}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(model),
                "x": packed(100 * one.confidence),
                "y": packed(np.array([100 * h.value for h in one.hits])),
                "line": {"color": color, "width": 1.4},
                "marker": {"color": color, "size": 7, "symbol": symbol},
                "hovertemplate": f"{label(model)}: said %{{x:.1f}} %, came true %{{y:.1f}} %<extra></extra>",
            }
            | bars
        )
    error = found.reliability[found.main].error
    return {
        "title": f"Probabilities are off by {100 * error:.1f} points on average",
        "caption": f"Decisions in ten bins of equal count by the probability that the model gave to its "
        f"choice, and how often that came true. The title is {label(found.main)}'s expected calibration "
        "error; its whiskers are 95 % intervals.",
        "data": traces,
        "layout": {
            "showlegend": True,
            "xaxis": {"title": {"text": "said (%)"}, "showgrid": True, "tickformat": ".3~f"},
            "yaxis": {"title": {"text": "came true (%)"}, "tickformat": ".3~f"},
        },
    }


def equity_chart(strategies: list[Strategy], currency: str) -> Chart:
    """Profit so far, net as a line and gross as dots."""
    traces = []
    for place, one in enumerate(strategies):
        name = plain(one.name, f"strategy {place + 1}")
        color, _ = _LINES[place % len(_LINES)]
        for what, values, dash, width in (
            ("before costs", one.gross, "dot", 1.2),
            ("after costs", one.net, "solid", 2),
        ):
            kept = series.extremes(one.ts, values, _POINTS // max(1, len(strategies)))
            traces.append(
                _over_time(f"{name}, {what}", one.ts[kept], values[kept], color, dash, width)
                | {"legendgroup": name}
            )
    first = strategies[0]
    word = "made" if first.pnl.value >= 0 else "lost"
    before = money(float(first.gross[-1]), currency)
    return {
        "title": f"{plain(first.name, 'The first strategy')} {word} "
        f"{money(abs(first.pnl.value), currency)} after costs, {before} before them",
        "caption": "Profit so far, all instruments together, marked at mid; starts at 0. The test period "
        "only: models were fitted before it.",
        "data": traces,
        "layout": {
            "showlegend": True,
            "hovermode": "x unified",
            "xaxis": time_axis("venue time (UTC)"),
            "yaxis": _money_axis("profit", currency),
        },
    }


def drawdown_chart(strategies: list[Strategy], currency: str) -> Chart:
    """How far below the highest value so far."""
    traces = []
    for place, one in enumerate(strategies):
        kept = series.extremes(one.ts, one.drawdown, _POINTS // max(1, len(strategies)))
        name = plain(one.name, f"strategy {place + 1}")
        color, dash = _LINES[place % len(_LINES)]
        trace = _over_time(name, one.ts[kept], one.drawdown[kept], color, dash, 1.5)
        if place == 0 and color in ("$a", "$b"):
            trace |= {"fill": "tozeroy", "fillcolor": f"{color}-soft"}
        traces.append(trace)
    first = strategies[0]
    deepest = float(first.drawdown.min())
    return {
        "title": f"{plain(first.name, 'The first strategy')} was at most {money(-deepest, currency)} below "
        "its highest value"
        if deepest < 0
        else f"{plain(first.name, 'The first strategy')} never fell below its highest value",
        "caption": "Profit after costs minus its highest value so far, the start counted.",
        "data": traces,
        "layout": {
            "showlegend": True,
            "hovermode": "x unified",
            "xaxis": time_axis("venue time (UTC)"),
            "yaxis": _money_axis("below the highest", currency),
        },
    }


def cost_chart(strategies: list[Strategy], currency: str) -> Chart:
    """From gross to net: what each cost took."""
    traces = []
    for place, one in enumerate(strategies):
        color, _ = _LINES[place % len(_LINES)]
        steps = {"before<br>costs": float(one.gross[-1])}
        steps |= {_SHORT.get(name, name): -paid for name, paid in one.costs.items()}
        steps["after<br>costs"] = one.pnl.value
        traces.append(
            {
                "type": "bar",
                "name": plain(one.name, f"strategy {place + 1}"),
                "x": list(steps),
                "y": packed(np.array(list(steps.values()))),
                "marker": {"color": color, "line": {"width": 0}},
                "hovertemplate": "%{x}: %{y:,.2f}<extra>%{fullData.name}</extra>",
            }
        )
    first = strategies[0]
    paid = sum(first.costs.values())
    kind = max(first.costs, key=lambda name: first.costs[name])
    title = f"{plain(first.name, 'The first strategy')} paid {money(paid, currency)}"
    if paid > 0:
        title += f", {share(first.costs[kind], paid)} of it {kind}"
    return {
        "title": title,
        "caption": "Spread: half of it is paid whenever an order takes the opposite quote, against the mid "
        "of that book. Impact: charged beyond the quote by the cost model. Fees: commission, per lot "
        "and side.",
        "data": traces,
        "layout": {
            "showlegend": len(traces) > 1,
            "barmode": "group",
            "bargap": 0.3,
            "xaxis": {"type": "category", "nticks": 0, "tickmode": "linear", "dtick": 1},
            "yaxis": _money_axis("profit and costs", currency),
        },
    }


def position_chart(strategies: list[Strategy], symbols: dict[int, str]) -> Chart | None:
    """Lots held: a band for each instrument, a line for each strategy."""
    traded: dict[int, int] = {}
    for one in strategies:
        for instrument, held in one.positions.items():
            moved = int(np.abs(np.diff(held.lots, prepend=0)).sum())
            traded[instrument] = traded.get(instrument, 0) + moved
    ids = sorted(traded, key=lambda i: (-traded[i], i))[:MOST_ROWS]
    if not ids:
        return None
    gap = 0.05 if len(ids) > 1 else 0.0
    size = (1 + gap) / len(ids)
    layout: Figure = {"showlegend": len(strategies) > 1, "hovermode": "x", "annotations": []}
    traces = []
    budget = max(150, 2 * _POINTS // (len(ids) * len(strategies)))
    for row, instrument in enumerate(ids):
        top = 1 - row * size
        axis = "y" if row == 0 else f"y{row + 1}"
        layout[axis.replace("y", "yaxis")] = {
            "domain": [max(0.0, top - size + gap), top],
            "title": {"text": plain(symbols.get(instrument, ""), f"id {instrument}")},
            "tickformat": ",d",
            "nticks": 4,
            "rangemode": "tozero",
        }
        for place, one in enumerate(strategies):
            if instrument not in one.positions:
                continue
            held = one.positions[instrument]
            kept = series.extremes(held.ts, held.lots.astype(np.float64), budget)
            name = plain(one.name, f"strategy {place + 1}")
            color, dash = _LINES[place % len(_LINES)]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "legendgroup": name,
                    "showlegend": row == 0,
                    "visible": True if place == 0 else "legendonly",
                    "x": milliseconds(held.ts[kept]),
                    "y": packed(held.lots[kept], "int32"),
                    "yaxis": axis,
                    "line": {"color": color, "width": 1.3, "shape": "hv", "dash": dash},
                    **({"fill": "tozeroy", "fillcolor": f"{color}-soft"} if place == 0 else {}),
                    "hovertemplate": f"{name} %{{y:,}} lots<extra></extra>",
                }
            )
    layout["xaxis"] = time_axis("venue time (UTC)") | {"anchor": "y" if len(ids) == 1 else f"y{len(ids)}"}
    most = max(int(np.abs(s.positions[i].lots).max()) for s in strategies for i in s.positions)
    left_out = f" The {len(ids)} most traded of {len(traded)} instruments." if len(traded) > len(ids) else ""
    left_out += " Click another strategy's name to see it too." if len(strategies) > 1 else ""
    return {
        "title": f"Never more than {plural(most, 'lot')} of an instrument"
        if most
        else "No position was taken",
        "caption": "Lots held at each mark; above 0 long, below 0 short. Where there is no "
        f"forecast no position is wanted.{left_out}",
        "height": 110 + 84 * len(ids),
        "data": traces,
        "layout": layout,
    }


def _curve(
    name: str,
    epochs: NDArray[np.int64],
    values: NDArray[np.float64],
    color: str,
    dash: str,
    form: str = ".4f",
) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": packed(epochs, "int32"),
        "y": packed(values),
        "line": {"color": color, "width": 2, "dash": dash},
        "marker": {"color": color, "size": 6},
        "hovertemplate": f"{name} %{{y:{form}}}<extra></extra>",
    }


def _over_time(
    name: str, ts: NDArray[np.int64], values: NDArray[np.float64], color: str, dash: str, width: float
) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": milliseconds(ts),
        "y": packed(values),
        "line": {"color": color, "width": width, "dash": dash, "shape": "hv"},
        "hovertemplate": f"{name} %{{y:,.2f}}<extra></extra>",
    }


def _bars(values: list[Interval]) -> Figure:
    """Whiskers in percent; none where there is no interval."""
    above = [0.0 if v.high is None else 100 * (v.high - v.value) for v in values]
    below = [0.0 if v.low is None else 100 * (v.value - v.low) for v in values]
    return {
        "type": "data",
        "symmetric": False,
        "array": packed(np.array(above)),
        "arrayminus": packed(np.array(below)),
        "thickness": 1.6,
        "width": 4,
    }


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "too few for an interval"
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _money_axis(what: str, currency: str) -> Figure:
    code = currency if len(currency) == 3 and currency.isascii() and currency.isalpha() else ""
    return {"title": {"text": f"{what} ({code})" if code else what}, "tickformat": ",~s"}
