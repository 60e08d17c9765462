"""Databento's DBN files of orders (schema MBO), turned back into MDP 3.0 packets.

Format: the DBN encoding, versions 1 to 3 (databento.com/docs/standards-and-conventions). How rows become
packets: `workloads.exchange.captures.orders`. What such a file does not hold is made up and sent in front
of the first live packet: a channel reset, a definition, a status, and the order book that the file's
snapshot rows describe, as messages marked "recovery".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from workloads.exchange import mdp3
from workloads.exchange.captures import orders
from workloads.exchange.captures.products import ONE, Product, Terms, decimal, maturity, product_of
from workloads.exchange.captures.source import CaptureError, CaptureInfo, Source
from workloads.exchange.encode import definition
from workloads.exchange.packets import Packets
from workloads.ticks.codes import EventFlag, TradingStatus

DATASET: Final = "GLBX.MDP3"
SCHEMAS: Final = (
    *(
        "mbo",
        "mbp-1",
        "mbp-10",
        "tbbo",
        "trades",
        "ohlcv-1s",
        "ohlcv-1m",
        "ohlcv-1h",
        "ohlcv-1d",
        "definition",
    ),
    *(
        "statistics",
        "status",
        "imbalance",
        "ohlcv-eod",
        "cmbp-1",
        "cbbo-1s",
        "cbbo-1m",
        "tcbbo",
        "bbo-1s",
        "bbo-1m",
    ),
)
MIXED_SCHEMA: Final = 0xFFFF
MAX_METADATA_BYTES: Final = 64 << 20
RTYPE_MBO: Final = 0xA0
SNAPSHOT_FLAG: Final = 32
BLOCK_ROWS: Final = 65_536
MAX_BURST: Final = 100_000
"""Packets that a channel may send at once, and again every second: sequence numbers that run away faster
mean damage, not that other instruments were busy. CME's channels peak at 50 packets per ms."""
PREFACE_STEP_NS: Final = 100_000
"""SendingTime between two packets of the preface: slow enough for any receiver."""
OPENING_PACKETS: Final = 3

_CHICAGO = ZoneInfo("America/Chicago")


def _row(record_bytes: int) -> np.dtype[np.void]:
    """One MBO record; ``length`` counts words of 4 bytes. With ts_out, 8 bytes more."""
    return np.dtype(
        {
            "names": [
                *("length", "rtype", "instrument_id", "ts_event", "order_id", "price", "size", "flags"),
                *("channel", "action", "side", "ts_recv", "ts_in_delta", "seq"),
            ],
            "formats": [
                "u1",
                "u1",
                "<u4",
                "<u8",
                "<u8",
                "<i8",
                "<u4",
                "u1",
                "u1",
                "u1",
                "u1",
                "<u8",
                "<i4",
                "<u4",
            ],
            "offsets": [0, 1, 4, 8, 16, 24, 32, 36, 37, 38, 39, 40, 48, 52],
            "itemsize": record_bytes,
        }
    )


@dataclass(frozen=True)
class Metadata:
    """What stands in front of the records."""

    version: int
    dataset: str
    schema: str
    ts_out: bool
    symbols: dict[str, str]
    """Instrument id, as text -> symbol that was asked for."""

    @property
    def record_bytes(self) -> int:
        return 64 if self.ts_out else 56


@dataclass
class _Survey:
    """What reading all rows once tells."""

    rows: int = 0
    channel: int = 0
    book_orders: int = 0
    """Orders of the snapshot in front of the live rows."""
    book_ts: int = 0
    """When that snapshot was taken (ts_recv)."""
    later_snapshot_rows: int = 0
    live_packets: int = 0
    fills: int = 0
    restarts: int = 0
    first_seq: int = 0
    last_seq: int = -1
    last_run: int = 0
    """Rows so far under the last sequence number."""
    ts_first: int = 0
    ts_last: int = 0


@dataclass(frozen=True)
class _Preface:
    """What is sent in front of the first live packet."""

    first_seq: int
    packets: int
    ts_first: int
    ts_step: int
    shift: int
    """Added to every sequence number of the file, where it leaves no room in front."""


class DbnCapture:
    """One instrument's orders, as the packets that its venue sent."""

    def __init__(self, path: Path, terms: Terms):
        self._path = path
        with Source(path) as source:
            self._metadata = read_metadata(source)
            first = source.read(self._metadata.record_bytes)
            self._where = source.where
        if not first:
            raise CaptureError(
                f"{path} holds metadata but no record; ask for a range in which the market was open"
            )
        self._instrument_id = int.from_bytes(first[4:8], "little")
        if self._instrument_id > mdp3.NULL_I32:
            raise CaptureError(
                f"{path}: the first record has instrument id {self._instrument_id}, and the wire has 31 bits "
                "for it; copy or download the file again"
            )
        self._symbol = self._metadata.symbols.get(str(self._instrument_id), str(self._instrument_id))
        self._product = product_of(self._symbol, terms)
        self._survey = _Survey()
        for position, rows in self._rows():
            self._check(position, rows)
            self._count(position, rows)
        self._preface = self._plan()
        survey, preface = self._survey, self._preface
        self.info = CaptureInfo(
            kind=f"DBN version {self._metadata.version}, MBO",
            path=str(path),
            packets=preface.packets + survey.live_packets + survey.fills,
            records=survey.rows,
            ts_first=preface.ts_first,
            ts_last=survey.ts_last or preface.ts_first + (preface.packets - 1) * preface.ts_step,
            venue=self._product.venue,
            channel=survey.channel or self._product.channel,
            instrument=self._symbol,
            notes=tuple(self._notes()),
        )

    def blocks(self) -> Iterator[Packets]:
        """The preface, then one packet for each sequence number from the first live one to the last."""
        encoder = orders.Encoder(
            instrument_id=self._instrument_id,
            display_factor=self._product.display_factor,
            shift=self._preface.shift,
        )
        yield Packets.of(self._opening())
        sent = OPENING_PACKETS
        book_left = self._survey.book_orders
        book = live = np.empty((0, self._metadata.record_bytes), np.uint8)
        for _, rows in self._rows():
            new_book, new_live = self._split(rows, book_open=book_left > 0)
            if len(new_book):
                book = np.concatenate([book, new_book])
                book_left -= len(new_book)
                whole = len(book) if book_left == 0 else len(book) - len(book) % orders.BOOK_PACKET_ROWS
                if whole:
                    ts_first = self._preface.ts_first + sent * self._preface.ts_step
                    packets = encoder.book(
                        book[:whole],
                        self._preface.first_seq + sent,
                        ts_first,
                        self._preface.ts_step,
                        final=book_left == 0,
                    )
                    sent += len(packets)
                    book = book[whole:]
                    yield packets
            live = np.concatenate([live, new_live])
            whole = orders.whole_packets(self._fields(live)["seq"])
            yield from encoder.live(live[:whole])
            live = live[whole:]
        yield from encoder.live(live)

    def _fields(self, rows: NDArray[np.uint8]) -> NDArray[np.void]:
        """The rows by name; ``rows`` is uint8[n, record_bytes]."""
        return rows.reshape(-1).view(_row(self._metadata.record_bytes))

    def _rows(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(position of the first, uint8[n, record_bytes]) of block after block."""
        record_bytes = self._metadata.record_bytes
        with Source(self._path) as source:
            read_metadata(source)
            while data := source.read(BLOCK_ROWS * record_bytes):
                position = source.position - len(data)
                whole = len(data) // record_bytes
                if whole:
                    yield (
                        position,
                        np.frombuffer(data, np.uint8, whole * record_bytes).reshape(-1, record_bytes),
                    )
                if len(data) % record_bytes:
                    start = position + whole * record_bytes
                    raise CaptureError(
                        f"{self._path} is cut off inside the record at {source.where(start)}: "
                        f"{len(data) % record_bytes} of {record_bytes} bytes are there; "
                        "copy or download the file again"
                    )

    def _split(
        self, rows: NDArray[np.uint8], *, book_open: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(resting orders of the snapshot in front, live rows). Snapshot rows further back are left out."""
        fields = self._fields(rows)
        snapshot = fields["flags"] & SNAPSHOT_FLAG != 0
        if not snapshot.any():
            return rows[:0], rows
        in_front = snapshot & (np.cumsum(~snapshot) == 0) & (fields["action"] == ord("A"))
        return rows[in_front] if book_open else rows[:0], rows[~snapshot]

    def _check(self, position: int, rows: NDArray[np.uint8]) -> None:
        """Refuse the first row that cannot be replayed truly."""
        row = self._fields(rows)
        multiply, divide = orders.wire_ratio(self._product.display_factor)
        order_row = np.isin(row["action"], list(b"AMC"))
        ts_sent = row["ts_recv"] - row["ts_in_delta"].astype(np.uint64)
        null_price = row["price"] == mdp3.NULL_I64
        most = mdp3.NULL_I64 // multiply * divide
        tests: list[tuple[Any, str, str, Any]] = [
            (
                (row["rtype"] != RTYPE_MBO) | (row["length"] * np.int64(4) != self._metadata.record_bytes),
                "is no MBO record (record type and length are {})",
                "ask for schema mbo, or download the file again",
                lambda i: f"{row['rtype'][i]:#x} and {int(row['length'][i]) * 4} bytes",
            ),
            (
                row["instrument_id"] != self._instrument_id,
                f"is of instrument {{}}, the first one of {self._instrument_id}",
                "a replay takes one instrument: ask for one symbol, or split the file",
                lambda i: row["instrument_id"][i],
            ),
            (
                ~np.isin(row["action"], list(b"ACMRTFN")),
                "has action {}, and only A C M R T F N are known",
                "download the file again",
                lambda i: ascii(chr(row["action"][i])),
            ),
            (
                ~np.isin(row["side"], list(b"ABN")) | (order_row & (row["side"] == ord("N"))),
                "has side {}",
                "an order is on side A or B, a trade may have N; download the file again",
                lambda i: ascii(chr(row["side"][i])),
            ),
            (
                (row["ts_event"] >= 2**63) | (row["ts_recv"] >= 2**63) | (ts_sent >= 2**63),
                "has no valid time (ts_event {})",
                "download the file again",
                lambda i: row["ts_event"][i],
            ),
            (
                (row["size"] > mdp3.NULL_I32) & (row["size"] != mdp3.NULL_U32),
                "has size {}, which the wire's 32 bits cannot hold",
                "download the file again",
                lambda i: row["size"][i],
            ),
            (
                ~null_price & ((row["price"] % divide != 0) | (row["price"] > most) | (row["price"] < -most)),
                "has price {}, which is no whole wire price at display factor "
                + decimal(self._product.display_factor),
                "give the right one with --display-factor",
                lambda i: decimal(int(row["price"][i])),
            ),
        ]
        for bad, what, remedy, value in tests:
            if bad.any():
                i = int(np.argmax(bad))
                raise self._refusal(position, i, what.format(value(i)), remedy)

    def _count(self, position: int, rows: NDArray[np.uint8]) -> None:
        """Add a block to the survey; refuse sequence numbers that cannot be."""
        survey = self._survey
        row = self._fields(rows)
        survey.rows += len(row)
        survey.channel = survey.channel or int(row["channel"][0])
        snapshot = row["flags"] & SNAPSHOT_FLAG != 0
        book = 0
        if survey.last_seq < 0:
            in_front = snapshot & (np.cumsum(~snapshot) == 0)
            book = int(in_front.sum())
            survey.book_orders += int((in_front & (row["action"] == ord("A"))).sum())
            if book:
                survey.book_ts = int(row["ts_recv"][in_front][-1])
        survey.later_snapshot_rows += int(snapshot.sum()) - book
        live = np.flatnonzero(~snapshot)
        if not len(live):
            return
        seq = row["seq"][live].astype(np.int64)
        ts_sent = row["ts_recv"][live].astype(np.int64) - row["ts_in_delta"][live]
        if survey.last_seq < 0:
            survey.first_seq, survey.ts_first = int(seq[0]), int(ts_sent[0])
            survey.last_seq, survey.ts_last, survey.live_packets = int(seq[0]), int(ts_sent[0]), 1
        step = np.diff(seq, prepend=survey.last_seq)
        elapsed = np.maximum(np.diff(ts_sent, prepend=survey.ts_last), 0)
        skipped = np.maximum(step - 1, 0)
        wild = skipped > MAX_BURST + elapsed // 1_000 * MAX_BURST // 1_000_000
        if wild.any():
            i = int(np.argmax(wild))
            raise self._refusal(
                position,
                int(live[i]),
                f"jumps over {int(skipped[i]):,} sequence numbers within {int(elapsed[i]) / 1e9:.3f} s",
                "that is more than a channel can send: download the file again",
            )
        changes = np.flatnonzero(step)
        bounds = np.concatenate([[-survey.last_run], changes, [len(seq)]])
        runs = np.diff(bounds)
        if runs.max() > orders.MAX_PACKET_ROWS:
            i = int(bounds[int(np.argmax(runs))])
            raise self._refusal(
                position,
                int(live[max(i, 0)]),
                f"is one of more than {orders.MAX_PACKET_ROWS} under sequence number {int(seq[max(i, 0)])}",
                "one UDP packet cannot hold them: download the file again",
            )
        survey.live_packets += len(changes)
        survey.fills += int(skipped.sum())
        survey.restarts += int((step < 0).sum())
        survey.last_run = int(runs[-1])
        survey.last_seq, survey.ts_last = int(seq[-1]), int(ts_sent[-1])

    def _refusal(self, position: int, i: int, what: str, remedy: str) -> CaptureError:
        at = position + i * self._metadata.record_bytes
        return CaptureError(f"{self._path}: the record at {self._where(at)} {what}; {remedy}")

    def _plan(self) -> _Preface:
        survey = self._survey
        packets = OPENING_PACKETS + -(-survey.book_orders // orders.BOOK_PACKET_ROWS)
        if survey.last_seq < 0:
            return _Preface(1, packets, survey.book_ts, PREFACE_STEP_NS, 0)
        shift = max(0, packets + 1 - survey.first_seq)
        # Never before the snapshot was taken, never after the first live packet.
        ts_first = max(survey.ts_first - packets * PREFACE_STEP_NS, min(survey.book_ts, survey.ts_first), 0)
        ts_step = (survey.ts_first - ts_first) // packets
        return _Preface(survey.first_seq + shift - packets, packets, ts_first, ts_step, shift)

    def _opening(self) -> list[bytes]:
        preface = self._preface
        return orders.opening(
            seq=preface.first_seq,
            ts_sent=[preface.ts_first + i * preface.ts_step for i in range(OPENING_PACKETS)],
            definition=self._definition(self._product, preface.ts_first),
            security_group=_ascii(self._product.root, 6),
            instrument_id=self._instrument_id,
            trade_date=_trade_date(self._survey.ts_first or preface.ts_first),
            trading_status=TradingStatus.READY,
        )

    def _definition(self, product: Product, ts: int) -> bytes:
        year, month = maturity(self._symbol, datetime.fromtimestamp(ts // ONE, UTC).year) or (
            mdp3.NULL_U16,
            mdp3.NULL_U8,
        )
        return definition(
            mdp3.DEFINITION_FUTURE,
            event_flags=EventFlag.END,
            reports=1,
            update_action=ord("A"),
            last_update_time=ts,
            trading_status=TradingStatus.READY,
            exchange=product.venue.encode(),
            security_group=_ascii(product.root, 6),
            asset=_ascii(product.root, 6),
            symbol=_ascii(self._symbol, 20),
            instrument_id=self._instrument_id,
            security_type=b"FUT",
            currency=_ascii(product.currency, 3),
            settl_currency=_ascii(product.currency, 3),
            match_algorithm=b"F",
            min_size=1,
            tick=product.wire_tick,
            display_factor=product.display_factor,
            unit=product.unit.encode(),
            unit_quantity=product.multiplier,
            tick_value=product.tick_value,
            maturity_year=year,
            maturity_month=month,
        )

    def _notes(self) -> Iterator[str]:
        survey, preface, product = self._survey, self._preface, self._product
        yield (
            f"made up: the definition of {self._symbol} (tick {decimal(product.tick)}, multiplier "
            f"{decimal(product.multiplier)} {product.currency}, "
            f"display factor {decimal(product.display_factor)})"
        )
        yield (
            f"{preface.packets:,} packets lead in (sequence {preface.first_seq:,} to "
            f"{preface.first_seq + preface.packets - 1:,}): channel reset, definition, status, and a book of "
            f"{survey.book_orders:,} resting orders"
        )
        if preface.shift:
            yield (
                f"the first live packet has sequence number {survey.first_seq:,}, too low for what leads in: "
                f"all sequence numbers are the file's plus {preface.shift:,}"
            )
        if survey.fills:
            yield f"{survey.fills:,} sequence numbers of other instruments are filled with heartbeats"
        if survey.restarts:
            yield f"sequence numbers restart {survey.restarts:,} times"
        if survey.later_snapshot_rows:
            yield (
                f"left out: {survey.later_snapshot_rows:,} snapshot rows behind the first live row, "
                "as the book is known there"
            )


def read_metadata(source: Source) -> Metadata:
    """Read the metadata and leave the source at the first record.

    Raises
    ------
    CaptureError
        Another version, schema or dataset than can be replayed, or metadata that is cut off or damaged.
    """
    path = source.path
    head = source.read(8)
    version = head[3] if len(head) == 8 else 0
    if version not in (1, 2, 3):
        raise CaptureError(
            f"{path} is cut off after {len(head)} bytes; copy or download the file again"
            if len(head) < 8
            else f"{path} is DBN version {version} (byte 3), and versions 1 to 3 are read; "
            "download it again in one of them"
        )
    size = int.from_bytes(head[4:], "little")
    body = source.read(min(size, MAX_METADATA_BYTES))
    try:
        if len(body) < size:
            raise struct.error("it is cut off")
        return _parse_metadata(path, version, body)
    except (struct.error, IndexError) as error:
        raise CaptureError(
            f"{path} has damaged metadata: {size:,} bytes are announced at byte 4, {len(body):,} were read "
            f"({error}); copy or download the file again"
        ) from error


def _parse_metadata(path: Path, version: int, body: bytes) -> Metadata:
    dataset = _text(body[:16])
    (schema,) = struct.unpack_from("<H", body, 16)
    # start, end and limit, and in version 1 the count of records, are 8 bytes each; then two symbol types
    at = 16 + 2 + (32 if version == 1 else 24) + 2
    ts_out = body[at] != 0
    symbol_bytes = 22 if version == 1 else struct.unpack_from("<H", body, at + 1)[0]
    name = (
        "a mix of schemas"
        if schema == MIXED_SCHEMA
        else SCHEMAS[schema]
        if schema < len(SCHEMAS)
        else f"{schema}"
    )
    if name != "mbo":
        raise CaptureError(
            f"{path} holds schema {name} (byte 24), and orders are needed: download schema mbo"
        )
    if dataset != DATASET:
        raise CaptureError(
            f"{path} is of dataset {dataset!r} (byte 8), and only {DATASET} numbers its packets as CME does; "
            f"download {DATASET}"
        )
    at += 48 if version == 1 else 56  # with the reserved bytes, up to the length of the schema definition
    (skip,) = struct.unpack_from("<I", body, at)
    at += 4 + skip
    for _ in range(3):  # symbols, partial, not found
        (count,) = struct.unpack_from("<I", body, at)
        at += 4 + count * symbol_bytes
    (count,) = struct.unpack_from("<I", body, at)
    at += 4
    symbols: dict[str, str] = {}
    for _ in range(count):
        symbol = _text(body[at : at + symbol_bytes])
        (intervals,) = struct.unpack_from("<I", body, at + symbol_bytes)
        at += symbol_bytes + 4
        for _ in range(intervals):
            if at + 8 + symbol_bytes > len(body):
                raise IndexError("a symbol mapping is cut off")
            symbols[_text(body[at + 8 : at + 8 + symbol_bytes])] = symbol
            at += 8 + symbol_bytes
    return Metadata(version, dataset, name, ts_out, symbols)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("ascii", "replace")


def _ascii(text: str, width: int) -> bytes:
    return text.encode("ascii", "replace")[:width]


def _trade_date(ts: int) -> int:
    """CME's trade date as days since 1970-01-01: it begins at 17:00 Chicago the evening before."""
    local = datetime.fromtimestamp(ts // ONE, UTC).astimezone(_CHICAGO) + timedelta(hours=7)
    days = (local.date() - datetime(1970, 1, 1, tzinfo=UTC).date()).days
    return min(days, mdp3.NULL_U16)
