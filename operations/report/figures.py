"""Charts as Plotly's JSON. Colours are names ("$a"): the page's script puts in those of its theme.

No text of the run (symbols, notes) goes into a chart: Plotly would read it as markup. It stands in the page.
"""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operations.report import series
from operations.report.arrival import Latency, Skew
from operations.report.market import Instrument, aggressors, weights
from operations.report.wording import NANO, count, digits, duration, plural, price, share

Figure = dict[str, Any]
Chart = dict[str, Any]
"""A figure with its words: ``title`` says what to see, ``caption`` how to read it."""

FEED_DASH = {"A": "solid", "B": "dot"}
_BUDGET = 2_400
"""Pixel columns that the charts of all instruments share."""
_TYPES = {"float64": "f8", "float32": "f4", "int32": "i4"}


def packed(values: NDArray[Any], dtype: str = "float64") -> dict[str, str]:
    """An array as Plotly's typed-array JSON: a third of the size of decimal text."""
    array = np.ascontiguousarray(values, dtype=dtype)
    return {"dtype": _TYPES[dtype], "bdata": base64.b64encode(array.tobytes()).decode()}


def milliseconds(ts: NDArray[np.int64]) -> dict[str, str]:
    """Times as Plotly wants them: ms since the epoch."""
    return packed(ts / 1e6)


def time_axis(title: str) -> Figure:
    return {"type": "date", "title": {"text": title}, "hoverformat": "%Y-%m-%d %H:%M:%S.%L"}


def skew_chart(skew: Skew) -> Chart:
    """Bars left of zero: B came first; right of it: A did."""
    unit, name = _unit(max(abs(skew.quantiles[0.005]), abs(skew.quantiles[0.995])))
    histogram = skew.histogram
    (counts,) = histogram.counts.values()
    width = float(histogram.edges[1] - histogram.edges[0])
    middle = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    traces = []
    for label, color, mine in (
        ("B first", "$b", middle < 0),
        ("A first", "$a", middle > 0),
    ):
        if not mine.any():
            continue
        traces.append(
            {
                "type": "bar",
                "name": label,
                "x": packed(middle[mine] / unit),
                "y": packed(counts[mine], "int32"),
                "width": width / unit,
                "marker": {"color": color, "line": {"width": 0}},
                "hovertemplate": f"%{{x:.3~g}} {name}: %{{y:,}} packets<extra></extra>",
            }
        )
    median = skew.quantiles[0.5]
    # The colours match the words: the feed named first is the one that came first.
    lead, trail = ("A", "B") if median >= 0 else ("B", "A")
    outside = histogram.below + histogram.above
    tail = f" {plural(outside, 'packet')} beyond the chart's ends." if outside else ""
    top = float(np.log10(max(counts.max(), 1))) + 0.15
    return {
        "title": f"{lead} is ahead: half of {trail}'s copies come {duration(abs(median))} later or more"
        if median
        else "A and B arrive together",
        "caption": f"Arrival on B minus arrival on A, by the kernel's stamps, for {plural(skew.n, 'packet')} "
        f"that came on both; logarithmic height. Left of zero B was first. 98 % lie between "
        f"{duration(skew.quantiles[0.01])} and {duration(skew.quantiles[0.99])}; extremes "
        f"{duration(skew.least)} and {duration(skew.greatest)}.{tail}",
        "data": traces,
        "layout": {
            "barmode": "overlay",
            "bargap": 0,
            "showlegend": len(traces) > 1,
            "xaxis": {"title": {"text": f"B behind A ({name})"}, "zeroline": True},
            "yaxis": _counts_axis(top),
            "shapes": [_mark(median / unit)],
            "annotations": [_note("median", median / unit, 1.0)],
        },
    }


def latency_chart(latency: Latency) -> Chart:
    """Packets by latency, one step line for each feed, with the percentiles of the first copy."""
    histogram = latency.histogram
    traces = []
    centers = np.sqrt(histogram.edges[:-1] * histogram.edges[1:])
    for feed, counts in histogram.counts.items():
        if not counts.any():
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"feed {feed}",
                "x": packed(centers),
                "y": packed(np.maximum(counts, 0.5), "float32"),  # the axis has no zero
                "customdata": [[duration(c), count(n)] for c, n in zip(centers, counts, strict=True)],
                "line": {
                    "shape": "hvh",
                    "color": f"${feed.lower()}",
                    "width": 2,
                    "dash": FEED_DASH.get(feed, "solid"),
                },
                "fill": "tozeroy",
                "fillcolor": f"${feed.lower()}-soft",
                "hovertemplate": f"feed {feed}, about %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
            }
        )
    marks = [
        *((f"p{100 * q:g}", value) for q, value in latency.quantiles.items()),
        ("max", latency.greatest),
    ]
    marks = [(name, value) for name, value in marks if value > 0]
    shapes, notes, row, before = [], [], 0, -9.0
    span = max(0.5, float(np.log10(histogram.edges[-1] / histogram.edges[0]))) if len(traces) else 1.0
    for name, value in marks:
        at = float(np.log10(value))
        row = (row + 1) % 4 if (at - before) / span < 0.13 else 0
        before = at
        shapes.append(_mark(value))
        notes.append(_note(name, at, 1.0 - 0.085 * row))
    ticks = 10.0 ** np.arange(
        np.floor(np.log10(histogram.edges[0])), np.ceil(np.log10(histogram.edges[-1])) + 1
    )
    if len(ticks) <= 3:
        ticks = np.concatenate([ticks, 2 * ticks, 5 * ticks])
        ticks = np.sort(ticks)
    clock = (
        "from the sender's clock just before the packet left to the kernel's receive stamp"
        if latency.measured
        else "arrival minus the packet's own SendingTime, because the run has no sender's log: two clocks"
    )
    most = max((int(counts.max()) for counts in histogram.counts.values() if len(counts)), default=1)
    top = float(np.log10(max(most, 1))) + 0.5
    early = f" {plural(histogram.below, 'value')} of zero or less left out." if histogram.below else ""
    p50, p99 = latency.quantiles[0.5], latency.quantiles[0.99]
    return {
        "title": f"Half of the packets arrive within {duration(p50)}, 99 % within {duration(p99)}",
        "caption": f"One-way latency, {clock}. Both axes are logarithmic; marks are for the copy that came "
        f"first.{early}",
        "data": traces,
        "layout": {
            "showlegend": True,
            "xaxis": {
                "type": "log",
                "title": {"text": "latency"},
                "tickvals": ticks.tolist(),
                "ticktext": [duration(t).replace("\N{NO-BREAK SPACE}", " ") for t in ticks],
            },
            "yaxis": _counts_axis(top),
            "shapes": shapes,
            "annotations": notes,
        },
    }


def rate_chart(rate: series.Rate, bursts: list[series.Peak], clock: str, caption: str) -> Chart:
    """Packets per second, and the busiest second of each bin where bins are longer than a second."""
    second = next((p for p in bursts if p.width == NANO), None)
    milli = next((p for p in bursts if p.width == 1_000_000), None)
    color = "$event" if clock == "event" else "$wall"
    # Steps hold until the next point: the last bin needs its end.
    start = milliseconds(np.append(rate.start, rate.start[-1] + rate.width))
    traces = []
    if rate.peak is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "busiest second",
                "x": start,
                "y": packed(np.append(rate.peak, rate.peak[-1]), "int32"),
                "line": {"color": "$muted", "width": 1, "shape": "hv"},
                "hovertemplate": "busiest second: %{y:,}/s<extra></extra>",
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"mean of {duration(rate.width)}".replace("\N{NO-BREAK SPACE}", " "),
            "x": start,
            "y": packed(np.append(rate.mean, rate.mean[-1]), "float32"),
            "line": {"color": color, "width": 1.6, "shape": "hv"},
            "fill": "tozeroy",
            "fillcolor": f"{color}-soft",
            "hovertemplate": "mean: %{y:,.0f}/s<extra></extra>",
        }
    )
    where = "The venue sent" if clock == "event" else "This machine took"
    peak = f"{where} up to {plural(second.count, 'packet')} in a second" if second else f"{where} packets"
    burst = f", {count(milli.count)} in a millisecond" if milli else ""
    return {
        "title": peak + burst,
        "caption": f"{caption} Bins of {duration(rate.width)}; the peaks count any window, wherever it "
        "starts.",
        "data": traces,
        "layout": {
            "showlegend": len(traces) > 1,
            "hovermode": "x unified",
            "xaxis": time_axis("SendingTime (UTC)" if clock == "event" else "arrival (UTC)"),
            "yaxis": {"title": {"text": "packets per second"}, "tickformat": "~s", "rangemode": "tozero"},
        },
    }


def market_charts(instrument: Instrument, end: int, charted: int) -> dict[str, Chart]:
    """The charts of one instrument, all on one time axis; those without data are left out.

    ``end``: the venue's last time. ``charted``: how many instruments share the budget of points.
    """
    buckets = int(np.clip(_BUDGET // max(charted, 1), 150, 600))
    charts = {}
    start = end
    if instrument.quotes is not None and len(instrument.quotes.ts):
        start = int(instrument.quotes.ts[0])
    if len(instrument.trades.ts):
        start = min(start, int(instrument.trades.ts[0]))
    span = [start / 1e6, max(end, start + 1_000_000) / 1e6]
    if instrument.quotes is not None or len(instrument.trades.ts):
        charts["price"] = _price(instrument, buckets)
    if instrument.quotes is not None:
        charts["spread"] = _spread(instrument, buckets, end)
        charts["depth"] = _depth(instrument, buckets, end)
    if len(instrument.trades.ts):
        charts["volume"] = _volume(instrument, start, end)
    for name, chart in charts.items():
        layout = chart["layout"]
        layout["hovermode"] = "x unified"
        layout["xaxis"] = time_axis("venue time (UTC)") | {"range": span}
        if instrument.mended_from is not None and name != "volume":
            layout.setdefault("shapes", []).append(_mark(instrument.mended_from / 1e6, "$warn"))
    return charts


def _price(instrument: Instrument, buckets: int) -> Chart:
    traces = []
    trades, quotes = instrument.trades, instrument.quotes
    form = f",.{instrument.places}f"
    if len(trades.ts):
        kept = series.extremes(trades.ts, trades.price.astype(np.float64), buckets)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "trade",
                "x": milliseconds(trades.ts[kept]),
                "y": packed(trades.price[kept] / 1e9),
                "marker": {"color": "$trade", "size": 3.5, "line": {"width": 0}},
                "hovertemplate": f"trade %{{y:{form}}}<extra></extra>",
            }
        )
    for name, values, color in (
        ("bid", quotes.bid if quotes else None, "$bid"),
        ("ask", quotes.ask if quotes else None, "$ask"),
    ):
        if quotes is None or values is None:
            continue
        kept = series.extremes(quotes.ts, values, buckets)
        traces.append(_line(name, quotes.ts[kept], values[kept], color, form))
    if len(trades.ts):
        first, last = int(trades.price[0]), int(trades.price[-1])
        low, high = int(trades.price.min()), int(trades.price.max())
        places = instrument.places
        title = (
            f"Traded from {price(first, places)} to {price(last, places)}, "
            f"low {price(low, places)}, high {price(high, places)}"
        )
    else:
        title = "Quoted, never traded"
    axis: Figure = {"title": {"text": _price_unit(instrument)}, "tickformat": form, "hoverformat": form}
    shown = [values[~np.isnan(values)] for values in (quotes.bid, quotes.ask)] if quotes else []
    everything = np.concatenate([*shown, trades.price / 1e9])
    if instrument.tick and len(everything) and np.ptp(everything) <= 12 * instrument.tick / 1e9:
        axis["dtick"] = instrument.tick / 1e9  # no label between two ticks
    return {
        "title": title,
        "caption": "Best bid, best ask and trades. Each pixel column keeps its lowest and highest value."
        + _mended(instrument),
        "data": traces,
        "layout": {"showlegend": True, "yaxis": axis},
    }


def _spread(instrument: Instrument, buckets: int, end: int) -> Chart:
    quotes, tick = instrument.quotes, instrument.tick
    assert quotes is not None
    sampled = " Sampled from the dashed line on." if instrument.mended_from is not None else ""
    unit = "ticks" if tick else _price_unit(instrument)
    values = quotes.spread / (tick or NANO)
    kept = series.extremes(quotes.ts, values, buckets)
    there = ~np.isnan(values)
    form = ",.3~f" if tick else f",.{instrument.places}f"
    axis: Figure = {"title": {"text": f"spread ({unit})"}, "rangemode": "tozero", "tickformat": form}
    title = "The book was never two-sided"
    if there.any():
        held = weights(quotes.ts, end)[there].astype(np.float64)
        held = held if held.sum() else np.ones(len(held))
        sizes, place = np.unique(values[there], return_inverse=True)
        total = np.bincount(place, held)
        usual = int(np.argmax(total))
        word = ("tick" if sizes[usual] == 1 else "ticks") if tick else unit
        width = digits(float(sizes[usual])) if tick else f"{sizes[usual]:,.{instrument.places}f}"
        widest = digits(float(sizes[-1])) if tick else f"{sizes[-1]:,.{instrument.places}f}"
        title = f"Always {width} {word} wide"
        if tick:
            axis["range"] = [0, max(2.0, 1.06 * float(sizes[-1]))]
            if sizes[-1] <= 6:
                axis["dtick"] = 1
    if there.any() and len(sizes) > 1:
        title = (
            f"{width} {word} wide {share(float(total[usual]), float(total.sum()))} of the "
            f"time, {widest} at most"
        )
    return {
        "title": title,
        "caption": "Best ask minus best bid at the end of each event; gaps where a side was empty." + sampled,
        "data": [_line("spread", quotes.ts[kept], values[kept], "$event", form)],
        "layout": {"showlegend": False, "yaxis": axis},
    }


def _depth(instrument: Instrument, buckets: int, end: int) -> Chart:
    quotes = instrument.quotes
    assert quotes is not None
    sampled = " Sampled from the dashed line on." if instrument.mended_from is not None else ""
    traces = []
    means = []
    held = weights(quotes.ts, end).astype(np.float64)
    held = held if held.sum() else np.ones(len(held))
    for name, values, color in (("bid", quotes.bid_total, "$bid"), ("ask", quotes.ask_total, "$ask")):
        kept = series.extremes(quotes.ts, values, buckets)
        traces.append(_line(f"{name} lots", quotes.ts[kept], values[kept], color, ",.0f", "float32"))
        means.append(float(np.average(values, weights=held)))
    return {
        "title": f"On average {count(means[0])} lots bid and {count(means[1])} offered within ten levels",
        "caption": "Displayed lots in the ten best levels of each side; the averages weigh by time."
        + sampled,
        "data": traces,
        "layout": {
            "showlegend": True,
            "yaxis": {"title": {"text": "lots"}, "rangemode": "tozero", "tickformat": "~s"},
        },
    }


def _volume(instrument: Instrument, start: int, end: int) -> Chart:
    trades = instrument.trades
    width = series.nice_width(max(end - start, 1), 90)
    first = start // width * width
    bins = (max(end, int(trades.ts[-1])) - first) // width + 1
    place = (trades.ts - first) // width
    middles = first + width * np.arange(bins) + width // 2
    total = np.bincount(place, trades.size, minlength=bins)
    traces = []
    for (name, mine), color in zip(aggressors(trades).items(), ("$bid", "$ask", "$muted"), strict=True):
        if mine.any():
            traces.append(
                {
                    "type": "bar",
                    "name": f"{name.lower()} crossed" if name != "Neither" else "neither",
                    "x": milliseconds(middles),
                    "y": packed(np.bincount(place[mine], trades.size[mine], minlength=bins), "int32"),
                    "width": width / 1e6,
                    "marker": {"color": color, "line": {"width": 0}},
                    "hovertemplate": "%{y:,} lots<extra>%{fullData.name}</extra>",
                }
            )
    return {
        "title": f"{count(instrument.volume)} lots in {plural(len(trades.ts), 'trade')}; "
        f"busiest {duration(width)}: {count(total.max())} lots",
        "caption": f"Lots traded per {duration(width)}, by the side that crossed the spread.",
        "data": traces,
        "layout": {
            "showlegend": True,
            "barmode": "stack",
            "bargap": 0,
            "legend": {"traceorder": "normal"},
            "yaxis": {"title": {"text": f"lots per {duration(width)}"}, "tickformat": "~s"},
        },
    }


def _line(
    name: str, ts: NDArray[np.int64], values: NDArray[Any], color: str, form: str, dtype: str = "float64"
) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": milliseconds(ts),
        "y": packed(values, dtype),
        "connectgaps": False,
        "line": {"color": color, "width": 1.3, "shape": "hv"},
        "hovertemplate": f"{name} %{{y:{form}}}<extra></extra>",
    }


def _mended(instrument: Instrument) -> str:
    if instrument.mended_from is None:
        return ""
    return (
        " From the dashed line on, after the first lost packet, quotes and depth come from the venue's price "
        "levels, sampled: the order-by-order book is in doubt there."
    )


def _price_unit(instrument: Instrument) -> str:
    # The currency is text of the wire, and may be anything: only a plain code goes into the chart.
    if instrument.unscaled:
        return "price (wire units)"
    code = instrument.currency
    return f"price ({code})" if len(code) == 3 and code.isascii() and code.isalpha() else "price"


def _counts_axis(top: float) -> Figure:
    """Logarithmic, from just under one packet to 10**top."""
    return {
        "type": "log",
        "title": {"text": "packets"},
        "range": [float(np.log10(0.7)), top],
        "dtick": 1,
        "tickformat": "~s",
    }


def _mark(x: float, color: str = "$muted") -> Figure:
    line = {"color": color, "width": 1, "dash": "dash"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


def _note(text: str, x: float, y: float) -> Figure:
    return {
        "text": text,
        "xref": "x",
        "yref": "paper",
        "x": x,
        "y": y,
        "xanchor": "left",
        "yanchor": "top",
        "xshift": 3,
        "showarrow": False,
        "font": {"color": "$soft-ink", "size": 11},
        "bgcolor": "$card-veil",
    }


def _unit(ns: float) -> tuple[float, str]:
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= unit:
            return unit, name
    return 1.0, "ns"
