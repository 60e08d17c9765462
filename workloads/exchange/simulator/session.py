"""What a channel sends around continuous trading: definitions, status, limits, daily statistics.

Encoded in Python, once a session: nothing here is hot.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.exchange import mdp3
from workloads.exchange.encode import definition
from workloads.exchange.simulator.config import Future, SimulatorConfig
from workloads.exchange.simulator.matching import Market

PRE_OPEN, READY = 21, 17
_LAST_STATISTICS, _RECOVERY, _END = 8, 32, 128
_ELECTRONIC, _FRACTIONAL = 1 << 0, 1 << 11
_BACK_MONTH_ID, _SPREAD_ID, _OPTION_ID = 90_000_001, 90_000_002, 90_000_003
_MONTHS = "FGHJKMNQUVXZ"


def definitions(config: SimulatorConfig, market: Market) -> list[bytes]:
    """What exists: the futures, and of the first one a back month, a calendar spread and an option.

    Templates 54, 56, 55. The last three never trade.
    """
    reports = len(config.futures) + 3
    first = config.futures[0]
    year, month = first.maturity
    later = (year + (month > 9), (month + 2) % 12 + 1)
    symbol = f"{first.asset}{_MONTHS[later[1] - 1]}{later[0] % 10}"
    back = replace(first, instrument_id=_BACK_MONTH_ID, symbol=symbol, maturity=later, open_interest=0)
    messages = [_future(config, market, i, future, reports) for i, future in enumerate(config.futures)]
    messages.append(_future(config, market, 0, back, reports))
    common = _common(config, first, market, 0, reports)
    common |= {"high_limit": mdp3.NULL_I64, "low_limit": mdp3.NULL_I64, "tick": first.wire_tick // 5}
    messages.append(
        definition(
            mdp3.DEFINITION_SPREAD,
            **common,
            symbol=f"{first.symbol}-{symbol}",
            instrument_id=_SPREAD_ID,
            security_type="FUT",
            security_subtype="EQ",
            cfi="FMXXXX",
            **_maturity(first.maturity),
            legs=((first.instrument_id, 1, 1), (_BACK_MONTH_ID, 2, 1)),
        )
    )
    strike = first.opening_ticks // 20 * 20
    messages.append(
        definition(
            mdp3.DEFINITION_OPTION,
            **common,
            symbol=f"{first.symbol} C{strike * first.tick // 10**9}",
            instrument_id=_OPTION_ID,
            security_type="OOF",
            cfi="OCEFPS",
            put_or_call=1,
            strike=strike * first.wire_tick,
            strike_currency=first.currency,
            settl_currency=first.currency,
            tick_value=first.tick_value // 5,
            unit_quantity=10**9,
            **_maturity(first.maturity),
        )
    )
    return messages


def _future(config: SimulatorConfig, market: Market, i: int, future: Future, reports: int) -> bytes:
    """``i``: whose limits and settlement price hold for it."""
    state = market.instrument[i]
    attributes = _ELECTRONIC | (_FRACTIONAL if future.main_fraction else 0)
    fractions = {
        name: value
        for name in ("main_fraction", "sub_fraction", "price_display_format")
        if (value := getattr(future, name)) is not None
    }
    return definition(
        mdp3.DEFINITION_FUTURE,
        **_common(config, future, market, i, reports),
        symbol=future.symbol,
        instrument_id=future.instrument_id,
        security_type="FUT",
        settl_currency=future.currency,
        cfi="FFIXSX" if future.unit == "IPNT" else "FXXXSX",
        tick=future.wire_tick,
        tick_value=future.tick_value,
        unit_quantity=future.unit_quantity,
        open_interest=future.open_interest,
        max_variation=int(state["max_variation"]) * future.wire_tick,
        reference_date=config.settlement_date,
        attributes=attributes,
        **_maturity(future.maturity),
        **fractions,
    )


def _common(config: SimulatorConfig, future: Future, market: Market, i: int, reports: int) -> dict[str, Any]:
    state = market.instrument[i]
    activation = int(datetime(future.maturity[0] - 1, future.maturity[1], 1, tzinfo=UTC).timestamp()) * 10**9
    expiration = int(datetime(*future.maturity, 20, 14, 30, tzinfo=UTC).timestamp()) * 10**9
    return {
        "event_flags": _END,
        "reports": reports,
        "update_action": ord("A"),
        "last_update_time": config.definitions_ns,
        "trading_status": PRE_OPEN,
        "appl_id": config.channel,
        "market_segment": 64,
        "exchange": future.exchange,
        "security_group": future.asset,
        "asset": future.asset,
        "currency": future.currency,
        "display_factor": future.display_factor,
        "match_algorithm": "F",
        "min_size": 1,
        "max_size": 3_000,
        "unit": future.unit,
        "user_defined": "N",
        "settl_price_type": 3,
        "high_limit": int(state["high_limit"]) * future.wire_tick,
        "low_limit": int(state["low_limit"]) * future.wire_tick,
        "reference_price": int(state["settlement"]) * future.wire_tick,
        "activation": activation,
        "expiration": expiration,
    }


def _maturity(maturity: tuple[int, int]) -> dict[str, Any]:
    return {"maturity_year": maturity[0], "maturity_month": maturity[1]}


def status(config: SimulatorConfig, ts_event: int, trading_status: int, *, recovery: bool) -> list[bytes]:
    """Template 30, one for each product group: instrument null, so it holds for all of the group."""
    groups = dict.fromkeys(future.asset for future in config.futures)
    return [
        _message(
            mdp3.STATUS,
            _root(
                mdp3.STATUS,
                transact_time=ts_event,
                security_group=group,
                asset=group,
                instrument_id=mdp3.NULL_I32,
                trade_date=config.trade_date,
                event_flags=_END | (_RECOVERY if recovery else 0),
                trading_status=trading_status,
                halt_reason=0,
            ),
        )
        for group in groups
    ]


def limits(market: Market, ts_event: int, *, recovery: bool) -> bytes:
    """Template 50: price limits of every future, one event."""
    rows = np.zeros(len(market.instrument), mdp3.ENTRY[mdp3.LIMITS])
    for row, state in zip(rows, market.instrument, strict=True):
        tick = int(state["wire_tick"])
        state["rpt_seq"] += 1
        row["high"], row["low"] = int(state["high_limit"]) * tick, int(state["low_limit"]) * tick
        row["max_variation"] = int(state["max_variation"]) * tick
        row["instrument_id"], row["rpt_seq"] = state["id"], state["rpt_seq"]
    flags = _END | _LAST_STATISTICS | (_RECOVERY if recovery else 0)
    root = _root(mdp3.LIMITS, transact_time=ts_event, event_flags=flags)
    return _message(mdp3.LIMITS, root, rows)


def daily_statistics(config: SimulatorConfig, market: Market, ts_event: int) -> bytes:
    """Template 49: settlement price and open interest of the last trading day, one event for all futures."""
    rows = np.zeros(2 * len(market.instrument), mdp3.ENTRY[mdp3.DAILY_STATISTICS])
    rows["reference_date"] = config.settlement_date
    for k, row in enumerate(rows):
        state = market.instrument[k // 2]
        state["rpt_seq"] += 1
        row["instrument_id"], row["rpt_seq"] = state["id"], state["rpt_seq"]
        if k % 2 == 0:
            row["price"] = int(state["settlement"]) * int(state["wire_tick"])
            row["size"] = mdp3.NULL_I32
            row["settl_price_type"], row["entry_type"] = 3, ord("6")
        else:
            row["price"], row["size"] = mdp3.NULL_I64, state["open_interest"]
            row["settl_price_type"], row["entry_type"] = mdp3.NULL_U8, ord("C")
    root = _root(mdp3.DAILY_STATISTICS, transact_time=ts_event, event_flags=_END | _LAST_STATISTICS)
    return _message(mdp3.DAILY_STATISTICS, root, rows)


def channel_reset(config: SimulatorConfig, ts_event: int) -> bytes:
    """Template 4: every book and statistic of the channel is void; RptSeq starts again."""
    root = _root(mdp3.CHANNEL_RESET, transact_time=ts_event, event_flags=_END)
    return _message(mdp3.CHANNEL_RESET, root, np.array([config.channel], "<i2"))


def _root(template: int, **fields: Any) -> NDArray[Any]:
    root = np.zeros(1, mdp3.ROOT[template])
    for name, value in fields.items():
        root[name] = value
    return root


def _message(template: int, root: NDArray[Any], rows: NDArray[Any] | None = None) -> bytes:
    body = root.tobytes()
    if rows is not None:
        body += rows.itemsize.to_bytes(2, "little") + len(rows).to_bytes(1, "little") + rows.tobytes()
    size = mdp3.MESSAGE_HEADER_BYTES + len(body)
    return np.array([size, root.itemsize, template, mdp3.SCHEMA_ID, mdp3.VERSION], "<u2").tobytes() + body
