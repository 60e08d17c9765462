"""One Arrow schema per table, with the Parquet encoding that suits each column.

Times are ns since the UNIX epoch, UTC: ``ts_event`` (venue), ``ts_sent`` (packet), ``ts_recv`` (our
host). Prices are int64 in 1e-9 of the quote currency, null where the venue gives none. Sizes are int64
in the instrument's lots. A row is identified by venue, channel, epoch, seq, msg_index, entry_index.
Codes (``action``, ``entry_type``, ``trading_status`` ...) keep CME's numbers: see `workloads.ticks.codes`.

Market tables hold what the venue sent, derived tables what a features job made of it, result tables what
a training run or a backtest produced; `Layout` says how each kind is partitioned.
"""

from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

SCHEMA_VERSION = 1

TIMESTAMP = pa.timestamp("ns", tz="UTC")
NAME = pa.dictionary(pa.int32(), pa.string())
PRICE = pa.int64()

TIMES = [pa.field("ts_event", TIMESTAMP), pa.field("ts_sent", TIMESTAMP), pa.field("ts_recv", TIMESTAMP)]
IDENTITY = [
    pa.field("venue", NAME, nullable=False),  # ISO 10383 MIC
    pa.field("channel", pa.uint16(), nullable=False),
    pa.field("epoch", pa.uint32(), nullable=False),  # YYYYMMDDnn: Sunday of the week, restarts since
    pa.field("seq", pa.uint32(), nullable=False),  # of the packet
    pa.field("msg_index", pa.uint16(), nullable=False),  # of the message in its packet
    pa.field("entry_index", pa.uint8(), nullable=False),  # of the entry in its repeating group
]
FLAGS = [
    pa.field("event_flags", pa.uint8()),  # MatchEventIndicator; bit 7 only on the event's last row
    pa.field("row_flags", pa.uint8()),  # codes.RowFlag
    pa.field("template", pa.uint8()),
]
INSTRUMENT = pa.field("instrument_id", pa.int32())


class Layout(Enum):
    """How a table is partitioned: `workloads.ticks.partitions`."""

    MARKET = "market"
    """By venue, trading date and channel."""
    DATASET = "dataset"
    """By dataset (a features job's output) and trading date."""
    RUN = "run"
    """By run (of training, or of a backtest)."""


@dataclass(frozen=True)
class TableSchema:
    """Name and columns of one table, and how its columns are encoded in Parquet."""

    name: str
    arrow: pa.Schema
    dictionary: tuple[str, ...]
    """Columns of few values. All other integer and time columns are delta-encoded: measured at 2.4 times
    the write speed and 0.77 of the size of the default encoding on MBO rows."""
    layout: Layout = Layout.MARKET


def _table(
    name: str,
    fields: list[pa.Field],
    dictionary: tuple[str, ...] = (),
    layout: Layout = Layout.MARKET,
) -> TableSchema:
    everywhere = ("venue", "entry_index", "instrument_id", "event_flags", "row_flags", "template")
    names = [field.name for field in fields]
    few = tuple(n for n in (*everywhere, *dictionary) if n in names)
    return TableSchema(name, pa.schema(fields), few, layout)


MBO = _table(
    "mbo",
    [
        *TIMES,
        *IDENTITY,
        INSTRUMENT,
        pa.field("order_id", pa.uint64()),
        pa.field("priority", pa.uint64()),  # lower is earlier, within one price and side
        pa.field("price", PRICE),
        pa.field("size", pa.int64()),  # displayed quantity left
        pa.field("action", pa.uint8()),  # codes.Action
        pa.field("side", pa.uint8()),  # codes.Side
        *FLAGS,
    ],
    ("action", "side", "size", "price"),
)
MBP = _table(
    "mbp",
    [
        *TIMES,
        *IDENTITY,
        INSTRUMENT,
        pa.field("price", PRICE),
        pa.field("size", pa.int64()),
        pa.field("orders", pa.int32()),
        pa.field("level", pa.uint8()),  # 1 is the best
        pa.field("action", pa.uint8()),
        pa.field("entry_type", pa.uint8()),  # ASCII of MDEntryType: 0 1 bid offer, E F implied, J reset
        pa.field("rpt_seq", pa.uint32()),
        pa.field("tradeable_size", pa.int64()),
        *FLAGS,
    ],
    ("action", "level", "entry_type", "orders", "size", "price"),
)
TRADES = _table(
    "trades",
    [
        *TIMES,
        *IDENTITY,
        INSTRUMENT,
        pa.field("price", PRICE),
        pa.field("size", pa.int64()),
        pa.field("orders", pa.int32()),  # how many rows of trade_orders belong to this trade
        pa.field("aggressor", pa.uint8()),  # codes.Side
        pa.field("action", pa.uint8()),
        pa.field("trade_entry_id", pa.uint32()),
        pa.field("rpt_seq", pa.uint32()),
        *FLAGS,
    ],
    ("action", "aggressor", "orders", "size", "price"),
)
TRADE_ORDERS = _table(
    "trade_orders",
    [
        *TIMES,
        *IDENTITY,
        INSTRUMENT,  # null, like the trade_* columns, where the trade was lost in a gap
        pa.field("trade_seq", pa.uint32()),
        pa.field("trade_msg_index", pa.uint16()),
        pa.field("trade_entry_index", pa.uint8()),
        pa.field("n", pa.uint16()),  # position among the trade's orders; 0 is the aggressor, if any
        pa.field("order_id", pa.uint64()),
        pa.field("size", pa.int64()),
        *FLAGS,
    ],
    ("size", "trade_entry_index", "n"),
)
STATISTICS = _table(
    "statistics",
    [
        *TIMES,
        *IDENTITY,
        INSTRUMENT,
        pa.field("entry_type", pa.uint8()),  # ASCII of MDEntryType: e volume, 6 settlement, 7 8 high low ...
        pa.field("price", PRICE),
        pa.field("size", pa.int64()),
        pa.field("action", pa.uint8()),
        pa.field("rpt_seq", pa.uint32()),
        pa.field("reference_date", pa.date32()),
        pa.field("settl_price_type", pa.uint8()),
        pa.field("open_close_flag", pa.uint8()),
        *FLAGS,
    ],
    ("entry_type", "action", "settl_price_type", "open_close_flag", "reference_date"),
)
LIMITS = _table(
    "limits",
    [
        *TIMES,
        *IDENTITY,
        INSTRUMENT,
        pa.field("high", PRICE),
        pa.field("low", PRICE),
        pa.field("max_variation", PRICE),
        pa.field("rpt_seq", pa.uint32()),
        *FLAGS,
    ],
)
STATUS = _table(
    "status",
    [
        *TIMES,
        *IDENTITY,
        INSTRUMENT,  # null: the whole security group or asset; all of the channel for template 4
        pa.field("security_group", NAME),
        pa.field("asset", NAME),
        pa.field("trade_date", pa.date32()),
        pa.field("trading_status", pa.uint8()),
        pa.field("halt_reason", pa.uint8()),
        pa.field("trading_event", pa.uint8()),
        *FLAGS,
    ],
    ("security_group", "asset", "trading_status", "halt_reason", "trading_event", "trade_date"),
)
SNAPSHOTS = _table(
    "snapshots",
    [
        *TIMES,  # of the snapshot feed, which numbers its packets apart from the incremental feed
        *IDENTITY,
        INSTRUMENT,
        pa.field("last_seq", pa.uint32()),  # LastMsgSeqNumProcessed: the last packet already contained
        pa.field("reports", pa.uint32()),  # TotNumReports
        pa.field("chunk", pa.uint32()),
        pa.field("chunks", pa.uint32()),
        pa.field("rpt_seq", pa.uint32()),
        pa.field("entry_type", pa.uint8()),  # 0 (not ASCII "0") on the one row of an empty snapshot
        pa.field("price", PRICE),
        pa.field("size", pa.int64()),
        pa.field("orders", pa.int32()),
        pa.field("level", pa.uint8()),
        pa.field("order_id", pa.uint64()),
        pa.field("priority", pa.uint64()),
        pa.field("row_flags", pa.uint8()),
        pa.field("template", pa.uint8()),
    ],
    ("entry_type", "level", "orders", "size", "reports", "chunk", "chunks"),
)
DEFINITIONS = _table(
    "definitions",
    [
        *TIMES,  # ts_sent is the instant from which the definition is valid; ts_event is LastUpdateTime
        *IDENTITY,
        INSTRUMENT,
        pa.field("symbol", pa.string()),
        pa.field("update_action", pa.uint8()),  # ASCII: A add, D delete, M modify
        pa.field("security_group", NAME),
        pa.field("asset", NAME),
        pa.field("security_type", NAME),
        pa.field("security_subtype", NAME),
        pa.field("exchange", NAME),  # MIC of the listing
        pa.field("cfi", NAME),
        pa.field("currency", NAME),  # of the quote
        pa.field("settl_currency", NAME),
        pa.field("maturity", NAME),  # YYYYMM, YYYYMMDD or YYYYMMwN
        pa.field("tick", PRICE),  # quoted, 1e-9; null where a price-dependent table applies
        pa.field("tick_rule", pa.int8()),
        pa.field("tick_value", PRICE),  # money that one tick of one lot is worth, 1e-9 of the currency
        pa.field("display_factor", pa.int64()),  # 1e-9: quoted price = wire price x display factor
        pa.field("multiplier", pa.int64()),  # 1e-9 of the currency per quoted point and lot
        pa.field("lot_size", pa.int64()),  # 1e-9 units of the underlying per lot (UnitOfMeasureQty)
        pa.field("unit", NAME),
        pa.field("main_fraction", pa.uint8()),
        pa.field("sub_fraction", pa.uint8()),
        pa.field("price_display_format", pa.uint8()),
        pa.field("high_limit", PRICE),
        pa.field("low_limit", PRICE),
        pa.field("max_variation", PRICE),
        pa.field("reference_price", PRICE),
        pa.field("reference_date", pa.date32()),
        pa.field("open_interest", pa.int64()),
        pa.field("cleared_volume", pa.int64()),
        pa.field("strike", PRICE),
        pa.field("put_or_call", pa.uint8()),  # 0 put, 1 call
        pa.field("min_size", pa.uint32()),
        pa.field("max_size", pa.uint32()),
        pa.field("match_algorithm", NAME),
        pa.field("market_segment", pa.uint8()),
        pa.field("trading_status", pa.uint8()),
        pa.field("attributes", pa.uint32()),  # InstAttribValue bits
        pa.field("depth", pa.int8()),  # MarketDepth of the outright book (feed type GBX)
        pa.field("activation", TIMESTAMP),
        pa.field("expiration", TIMESTAMP),
        pa.field(
            "legs",
            pa.list_(
                pa.struct(
                    [
                        ("instrument_id", pa.int32()),
                        ("side", pa.uint8()),
                        ("ratio", pa.int8()),
                        ("price", pa.int64()),
                    ]
                )
            ),
        ),
        pa.field("guid", pa.uint64()),
        pa.field("row_flags", pa.uint8()),
        pa.field("template", pa.uint8()),
    ],
)
GAPS = _table(
    "gaps",
    [
        *IDENTITY[:3],
        pa.field("first_seq", pa.uint32(), nullable=False),  # inclusive
        pa.field("last_seq", pa.uint32(), nullable=False),  # inclusive
        pa.field("ts_before", TIMESTAMP),  # ts_recv of the packet before the gap
        pa.field("ts_after", TIMESTAMP),  # ts_recv of the packet after it
        pa.field("ts_detected", TIMESTAMP),
        pa.field("reason", NAME),  # timer, passed, ring, end: which rule declared it
        pa.field("outcome", NAME),  # lost; late: these packets came after all, and their rows are stored
        pa.field("kernel_drops_a", pa.uint32()),  # dropped by our kernel on each feed since the packet before
        pa.field("kernel_drops_b", pa.uint32()),
    ],
    ("reason", "outcome"),
)

PACKETS = _table(
    "packets",  # what arrived, packet by packet: the proof behind every share, skew and rate
    [
        *IDENTITY[:4],
        pa.field("ts_sent", TIMESTAMP),
        pa.field("ts_recv", TIMESTAMP),  # the first arrival
        pa.field("ts_recv_a", TIMESTAMP),  # null: feed A did not bring it
        pa.field("ts_recv_b", TIMESTAMP),
        pa.field("bytes", pa.uint16()),  # UDP payload
        pa.field("messages", pa.uint16()),
        pa.field("row_flags", pa.uint8()),
    ],
    ("messages",),
)
FEEDS = _table(
    "feeds",  # one row per stored segment and feed: counters that no packet carries
    [
        *IDENTITY[:3],
        pa.field("feed", NAME, nullable=False),  # A, B, S (snapshots)
        pa.field("ts_first", TIMESTAMP),  # ts_recv of the feed's first packet in the segment
        pa.field("ts_last", TIMESTAMP),
        pa.field("packets", pa.uint64()),
        pa.field("bytes", pa.uint64()),
        pa.field("first", pa.uint64()),  # packets that this feed brought before the other, or alone
        pa.field("duplicates", pa.uint64()),
        pa.field("late", pa.uint64()),
        pa.field("malformed", pa.uint64()),  # packets whose messages don't tile their length
        pa.field("unknown_messages", pa.uint64()),  # of a template that we don't know: skipped, counted
        pa.field("kernel_drops", pa.uint64()),  # SO_RXQ_OVFL: our socket buffer was full
        pa.field("receive_buffer", pa.uint64()),  # bytes that the kernel granted
    ],
)

BARS = _table(
    "bars",
    [
        pa.field("kind", NAME, nullable=False),  # time, volume, dollar
        pa.field("instrument_id", pa.int32(), nullable=False),
        pa.field("ts_start", TIMESTAMP, nullable=False),  # inclusive: a multiple of the width, or first trade
        pa.field(
            "ts_end", TIMESTAMP, nullable=False
        ),  # the bar is known from here on; exclusive for time bars
        pa.field("open", PRICE),
        pa.field("high", PRICE),
        pa.field("low", PRICE),
        pa.field("close", PRICE),
        pa.field("vwap", PRICE),  # rounded down to 1e-9
        pa.field("volume", pa.int64()),  # lots
        pa.field("buy_volume", pa.int64()),  # lots that a buyer took
        pa.field("sell_volume", pa.int64()),
        pa.field("trades", pa.int64()),
        pa.field("notional", pa.int64()),  # 1e-9 of the quote currency: price x size x multiplier
    ],
    ("kind",),
    Layout.DATASET,
)
BOOK_TENSORS = _table(
    "book_tensors",  # one row per instrument and grid time: what was known of the book just before it
    [
        pa.field("instrument_id", pa.int32(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),  # grid time: holds what was sent before it
        pa.field("segment", pa.int32(), nullable=False),  # windows and labels stay inside one; -1: not usable
        pa.field(
            "rules", pa.uint16(), nullable=False
        ),  # codes.CleaningRule bits that made it unusable; 0: clean
        pa.field("bid_price", PRICE),
        pa.field("ask_price", PRICE),
        pa.field("bid_size", pa.int64()),
        pa.field("ask_size", pa.int64()),
        pa.field(
            "ofi", pa.int64()
        ),  # order-flow imbalance of the best prices since the grid time before, lots
        pa.field("bid_adds", pa.int32()),  # new orders since the grid time before
        pa.field("ask_adds", pa.int32()),
        pa.field("buy_volume", pa.int64()),  # lots that buyers took since the grid time before
        pa.field("sell_volume", pa.int64()),
        pa.field("frame", pa.list_(pa.float32())),  # side x level x channel; axes: workloads.features.tensors
    ],
    ("segment", "rules"),
    Layout.DATASET,
)
LABELS = _table(
    "labels",  # the future, apart from what was known: models are fitted on it and judged by it
    [
        pa.field("instrument_id", pa.int32(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),  # of the book_tensors row
        pa.field("ts_end", TIMESTAMP, nullable=False),  # the label is known from here on: ts + horizon
        pa.field("move", pa.int32(), nullable=False),  # of the mid, half ticks
        pa.field("label", pa.int8(), nullable=False),  # -1 down, 0 flat, 1 up
    ],
    ("move", "label"),
    Layout.DATASET,
)
CLEANING = _table(
    "cleaning",  # how many rows each rule touched
    [
        pa.field("instrument_id", pa.int32()),  # null: rows without instrument
        pa.field("source", NAME, nullable=False),  # table that was cleaned
        pa.field(
            "rule", NAME, nullable=False
        ),  # codes.CleaningRule in lower case; "rows": all that were read
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("excluded", pa.int64(), nullable=False),  # of these, left out of what follows
    ],
    ("source", "rule"),
    Layout.DATASET,
)
FLAGGED = _table(
    "flagged",  # every row that a cleaning rule touched; the market table itself is never changed
    [
        pa.field("ts_event", TIMESTAMP),
        *IDENTITY,
        INSTRUMENT,
        pa.field("source", NAME, nullable=False),
        pa.field("rules", pa.uint16(), nullable=False),  # codes.CleaningRule bits
        pa.field("excluded", pa.bool_(), nullable=False),
    ],
    ("source", "rules"),
    Layout.DATASET,
)

MODELS = _table(
    "models",
    [
        pa.field("model", NAME, nullable=False),
        pa.field("as_of", TIMESTAMP, nullable=False),  # the newest label it was fitted on was known then
        pa.field("config", pa.string(), nullable=False),  # JSON
        pa.field("inputs", pa.string(), nullable=False),  # JSON of the data commit
        pa.field("code", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("parameters", pa.binary(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of parameters
    ],
    (),
    Layout.RUN,
)
SCORES = _table(
    "scores",
    [
        pa.field("model", NAME, nullable=False),
        pa.field("instrument_id", pa.int32(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),  # grid time: made from what was known just before it
        pa.field("p_down", pa.float64(), nullable=False),
        pa.field("p_flat", pa.float64(), nullable=False),
        pa.field("p_up", pa.float64(), nullable=False),
        pa.field("split", NAME, nullable=False),  # train, validation, test
    ],
    ("model", "split"),
    Layout.RUN,
)
LEARNING = _table(
    "learning",  # the learning curve
    [
        pa.field("model", NAME, nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),  # 0: before the first
        pa.field("train_loss", pa.float64()),  # cross-entropy, nats
        pa.field("validation_loss", pa.float64()),
        pa.field("validation_accuracy", pa.float64()),
    ],
    ("model",),
    Layout.RUN,
)
ORDERS = _table(
    "orders",
    [
        pa.field("strategy", NAME, nullable=False),
        pa.field("order", pa.int64(), nullable=False),
        pa.field("instrument_id", pa.int32(), nullable=False),
        pa.field("ts_decision", TIMESTAMP, nullable=False),
        pa.field("ts_arrival", TIMESTAMP, nullable=False),  # decision + latency: at the exchange
        pa.field("side", pa.uint8(), nullable=False),  # codes.Side
        pa.field("size", pa.int64(), nullable=False),  # lots
        pa.field("decision_mid", pa.int64(), nullable=False),  # 1e-9, rounded down
        pa.field("filled", pa.int64(), nullable=False),  # lots
        pa.field("reason", NAME, nullable=False),  # alpha, flatten: why it was sent
    ],
    ("strategy", "side", "reason"),
    Layout.RUN,
)
FILLS = _table(
    "fills",
    [
        pa.field("strategy", NAME, nullable=False),
        pa.field("order", pa.int64(), nullable=False),
        pa.field("instrument_id", pa.int32(), nullable=False),
        pa.field("ts_fill", TIMESTAMP, nullable=False),  # of the book that it traded against
        pa.field("side", pa.uint8(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),  # lots
        pa.field("price", PRICE, nullable=False),  # the opposite quote
        pa.field("mid", pa.int64(), nullable=False),  # of that book, 1e-9, rounded down
        pa.field("commission", pa.int64(), nullable=False),  # 1e-9 of the currency
        pa.field("impact", pa.int64(), nullable=False),  # 1e-9 of the currency, charged beyond the quote
        pa.field("liquidity", NAME, nullable=False),  # taker, maker
    ],
    ("strategy", "side", "liquidity"),
    Layout.RUN,
)
LEDGER = _table(
    "ledger",  # one row per strategy, instrument and mark time
    [
        pa.field("strategy", NAME, nullable=False),
        pa.field("instrument_id", pa.int32(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("position", pa.int64(), nullable=False),  # lots
        pa.field("mark", PRICE, nullable=False),  # mid, 1e-9, rounded down
        pa.field("cash", pa.int64(), nullable=False),  # 1e-9 of the currency; 0 at the start
        pa.field("value", pa.int64(), nullable=False),  # cash + position x mark x multiplier
        pa.field("spread_cost", pa.int64(), nullable=False),  # so far, 1e-9 of the currency
        pa.field("impact_cost", pa.int64(), nullable=False),
        pa.field("commission", pa.int64(), nullable=False),
    ],
    ("strategy", "position"),
    Layout.RUN,
)

TABLES: dict[str, TableSchema] = {
    table.name: table
    for table in (
        *(MBO, MBP, TRADES, TRADE_ORDERS, STATISTICS, LIMITS, STATUS, DEFINITIONS, SNAPSHOTS),
        *(GAPS, PACKETS, FEEDS),
        *(BARS, BOOK_TENSORS, LABELS, CLEANING, FLAGGED),
        *(MODELS, SCORES, LEARNING, ORDERS, FILLS, LEDGER),
    )
}
MARKET_TABLES = tuple(name for name, table in TABLES.items() if table.layout is Layout.MARKET)
DATASET_TABLES = tuple(name for name, table in TABLES.items() if table.layout is Layout.DATASET)
RUN_TABLES = tuple(name for name, table in TABLES.items() if table.layout is Layout.RUN)
