"""A second MDP 3.0 codec, slow and generic, that knows only what a schema XML says.

It shares no code and no table with `workloads.exchange`: where both agree, the wire is right, or CME's
schema is wrong. Rules: FIX Simple Binary Encoding 1.0 as far as CME's schemas use it (no nested groups, no
variable data), plus CME's two headers (MDP 3.0, Binary Packet Header and Message Header).

    oracle = Oracle(folder / "Cme.Futures.Mdp3.Sbe.v1.13.xml")
    oracle.packet(payload)["messages"][0]["groups"]["NoMDEntries"][0]["MDEntryPx"].decimal
"""

import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

PACKET_HEADER = struct.Struct("<IQ")
MESSAGE_HEADER = struct.Struct("<HHHHH")
FORMATS = {
    "char": "c",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}


class MalformedError(Exception):
    """These bytes are not a message of this schema."""


class Number(NamedTuple):
    """A decimal as the wire carries it: mantissa x 10^exponent."""

    mantissa: int
    exponent: int

    @property
    def decimal(self) -> Decimal:
        return Decimal(self.mantissa).scaleb(self.exponent)


@dataclass(frozen=True)
class Plain:
    """An integer, a character or a fixed-length string; also enums and sets, which are no more than that."""

    primitive: str
    length: int = 1
    null: int | None = None
    constant: Any = None
    values: Mapping[str, int | str] | None = None
    """Of an enum: its names. Of a set: its bit numbers."""

    @property
    def size(self) -> int:
        if self.constant is not None:
            return 0
        return self.length * struct.calcsize("<" + FORMATS[self.primitive])

    def decode(self, data: bytes) -> Any:
        if self.constant is not None:
            return self.constant
        if self.primitive == "char":
            return data.split(b"\0", 1)[0].decode("latin-1")
        (value,) = struct.unpack("<" + FORMATS[self.primitive], data)
        return None if value == self.null else value

    def encode(self, value: Any) -> bytes:
        if self.constant is not None:
            return b""
        if self.primitive == "char":
            return (value or "").encode("latin-1").ljust(self.length, b"\0")
        if value is None:
            value = self.null or 0
        return struct.pack("<" + FORMATS[self.primitive], value)


@dataclass(frozen=True)
class Composite:
    """Several values in a row. One with mantissa and exponent is a number, the others are dicts."""

    parts: tuple["Field", ...]

    @property
    def size(self) -> int:
        return max(part.end for part in self.parts)

    @property
    def exponent(self) -> int | None:
        return next((part.type.constant for part in self.parts if part.name == "exponent"), None)

    def decode(self, data: bytes) -> Any:
        values = {part.name: part.type.decode(data[part.offset : part.end]) for part in self.parts}
        if "mantissa" not in values:
            return values
        return None if values["mantissa"] is None else Number(values["mantissa"], values["exponent"])

    def encode(self, value: Any) -> bytes:
        if self.exponent is not None:
            value = {"mantissa": None if value is None else value[0]}
        data = bytearray(self.size)
        for part in self.parts:
            data[part.offset : part.end] = part.type.encode((value or {}).get(part.name))
        return bytes(data)


Type = Plain | Composite


@dataclass(frozen=True)
class Field:
    """A value at its place in a block."""

    name: str
    type: Type
    offset: int
    since: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.type.size


@dataclass(frozen=True)
class Group:
    """A repeating group; ``header`` is its dimension composite."""

    name: str
    block_length: int
    fields: tuple[Field, ...]
    header: Composite
    since: int = 0


@dataclass(frozen=True)
class Message:
    """One template."""

    id: int
    name: str
    block_length: int
    fields: tuple[Field, ...]
    groups: tuple[Group, ...]
    since: int = 0


class Oracle:
    """Decoder and encoder of one schema file.

    ``version`` is the schema's. ``messages`` maps template ids to `Message`; ``enums`` and ``sets`` map
    type names to {value name: number or character}.
    """

    def __init__(self, path: Path) -> None:
        root = ElementTree.parse(path).getroot()
        self.id = int(root.attrib["id"])
        self.version = int(root.attrib["version"])
        self._types: dict[str, Type] = {name: Plain(name) for name in FORMATS}
        declared = [e for e in root.iter() if _tag(e) in ("type", "composite", "enum", "set")]
        inside = {part for e in declared if _tag(e) == "composite" for part in e}
        for kind in ("type", "composite", "enum", "set"):
            for e in declared:
                if _tag(e) == kind and e not in inside:
                    self._types[e.attrib["name"]] = getattr(self, "_" + kind)(e)
        named = {name: t.values for name, t in self._types.items() if isinstance(t, Plain) and t.values}
        kinds = {e.attrib["name"]: _tag(e) for e in declared if e not in inside}
        self.enums = {name: values for name, values in named.items() if kinds[name] == "enum"}
        self.sets = {name: values for name, values in named.items() if kinds[name] == "set"}
        self.messages = {m.id: m for m in map(self._message, (e for e in root if _tag(e) == "message"))}

    # The schema.

    def _type(self, e: ElementTree.Element) -> Plain:
        primitive = e.attrib["primitiveType"]
        constant: Any = None
        if e.get("presence") == "constant":
            constant = _text(e) if primitive == "char" else int(_text(e))
        null = int(e.attrib["nullValue"]) if e.get("presence") == "optional" else None
        return Plain(primitive, int(e.get("length", 1)), null, constant)

    def _composite(self, e: ElementTree.Element) -> Composite:
        return Composite(tuple(_placed((part, self._type(part)) for part in e)))

    def _enum(self, e: ElementTree.Element) -> Plain:
        base = self._types[e.attrib["encodingType"]]
        assert isinstance(base, Plain)
        read = str if base.primitive == "char" else int
        values = {choice.attrib["name"]: read(_text(choice)) for choice in e}
        return Plain(base.primitive, base.length, base.null, values=values)

    def _set(self, e: ElementTree.Element) -> Plain:
        base = self._types[e.attrib["encodingType"]]
        assert isinstance(base, Plain)
        return Plain(base.primitive, values={bit.attrib["name"]: int(_text(bit)) for bit in e})

    def _fields(self, e: ElementTree.Element) -> tuple[Field, ...]:
        return tuple(_placed((f, self._types[f.attrib["type"]]) for f in e if _tag(f) == "field"))

    def _group(self, e: ElementTree.Element) -> Group:
        assert all(_tag(child) == "field" for child in e), "a nested group: this oracle has no rule for it"
        header = self._types[e.get("dimensionType", "groupSizeEncoding")]
        assert isinstance(header, Composite)
        name, since = e.attrib["name"], int(e.get("sinceVersion", 0))
        return Group(name, int(e.attrib["blockLength"]), self._fields(e), header, since)

    def _message(self, e: ElementTree.Element) -> Message:
        return Message(
            int(e.attrib["id"]),
            e.attrib["name"],
            int(e.attrib["blockLength"]),
            self._fields(e),
            tuple(self._group(child) for child in e if _tag(child) == "group"),
            int(e.get("sinceVersion", 0)),
        )

    # Bytes to values.

    def packet(self, payload: bytes) -> dict[str, Any]:
        """Decode one UDP payload.

        Returns ``seq``, ``ts_sent``, ``messages`` and ``error``: None, or why the walk from message to
        message ended early. A message is ``template``, ``name`` (None: not in this schema), ``schema``,
        ``version``, ``block_length``, ``fields``, ``groups`` and its own ``error``, with which it has
        neither fields nor groups. A null, or a field newer than the message, is None.
        """
        if len(payload) < PACKET_HEADER.size:
            return {"seq": None, "ts_sent": None, "messages": [], "error": "shorter than the packet header"}
        seq, ts_sent = PACKET_HEADER.unpack_from(payload)
        found: dict[str, Any] = {"seq": seq, "ts_sent": ts_sent, "messages": [], "error": None}
        at = PACKET_HEADER.size
        while at < len(payload):
            left = len(payload) - at
            size = struct.unpack_from("<H", payload, at)[0] if left >= 2 else 0
            if left < MESSAGE_HEADER.size or not MESSAGE_HEADER.size <= size <= left:
                found["error"] = f"byte {at}: a message of {size} B where {left} B are left"
                break
            found["messages"].append(self.message(payload[at : at + size]))
            at += size
        return found

    def message(self, data: bytes) -> dict[str, Any]:
        """Decode one message, its header included; see `packet`."""
        _, block_length, template, schema, version = MESSAGE_HEADER.unpack_from(data)
        layout = self.messages.get(template) if schema == self.id else None
        found: dict[str, Any] = {
            "template": template,
            "name": layout and layout.name,
            "schema": schema,
            "version": version,
            "block_length": block_length,
            "fields": {},
            "groups": {},
            "error": None,
        }
        if layout is not None:
            try:
                found["fields"], found["groups"] = self._body(layout, data, block_length, version)
            except MalformedError as error:
                found["error"] = str(error)
        return found

    def _body(self, layout: Message, data: bytes, block_length: int, version: int) -> tuple[Any, Any]:
        at = MESSAGE_HEADER.size
        fields = _read_block(layout.fields, _cut(data, at, block_length), version)
        at += block_length
        groups = {}
        for group in layout.groups:
            if group.since > version:
                continue
            header = group.header.decode(_cut(data, at, group.header.size))
            at += group.header.size
            entries = []
            for _ in range(header["numInGroup"]):
                entries.append(_read_block(group.fields, _cut(data, at, header["blockLength"]), version))
                at += header["blockLength"]
            groups[group.name] = entries
        return fields, groups

    # Values to bytes.

    def encode(
        self,
        template: int,
        fields: Mapping[str, Any],
        groups: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        *,
        version: int | None = None,
        grow: Mapping[str, int] | None = None,
        filler: int = 0,
        tail: bytes = b"",
    ) -> bytes:
        """One message, its header included.

        What is left out is null, or zero. ``version``: of the sender, at most the schema's; fields and
        groups that came later are not written. ``grow``: bytes by which a future sender's blocks are
        longer, by group name ("" the root); a broken sender's are shorter. ``filler``: value of every
        byte that no field claims. ``tail``: groups that a future sender adds.
        """
        layout = self.messages[template]
        version = self.version if version is None else version
        grow = grow or {}
        root_bytes = layout.block_length + grow.get("", 0)
        body = _write_block(layout.fields, fields, root_bytes, version, filler)
        for group in layout.groups:
            if group.since > version:
                continue
            entries = (groups or {}).get(group.name, ())
            entry_bytes = group.block_length + grow.get(group.name, 0)
            body += group.header.encode({"blockLength": entry_bytes, "numInGroup": len(entries)})
            for entry in entries:
                body += _write_block(group.fields, entry, entry_bytes, version, filler)
        body += tail
        return (
            MESSAGE_HEADER.pack(MESSAGE_HEADER.size + len(body), root_bytes, template, self.id, version)
            + body
        )


def in_packet(seq: int, ts_sent: int, *messages: bytes) -> bytes:
    """One UDP payload."""
    return PACKET_HEADER.pack(seq, ts_sent) + b"".join(messages)


def _tag(e: ElementTree.Element) -> str:
    return e.tag.rsplit("}", 1)[-1]


def _text(e: ElementTree.Element) -> str:
    return (e.text or "").strip()


def _placed(parts: Iterable[tuple[ElementTree.Element, Type]]) -> Iterator[Field]:
    """Fields at their declared offsets; one without stands behind the field before it."""
    at = 0
    for e, type_ in parts:
        at = int(e.get("offset", at))
        yield Field(e.attrib["name"], type_, at, int(e.get("sinceVersion", 0)))
        at += type_.size


def _cut(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise MalformedError(f"byte {at}: {size} B wanted, {len(data) - at} B left in the message")
    return data[at : at + size]


def _read_block(fields: Sequence[Field], block: bytes, version: int) -> dict[str, Any]:
    values = {}
    for field in fields:
        if field.since > version:
            values[field.name] = None
        elif field.end > len(block):
            raise MalformedError(f"{field.name} ends at byte {field.end} of a block of {len(block)} B")
        else:
            values[field.name] = field.type.decode(block[field.offset : field.end])
    return values


def _write_block(
    fields: Sequence[Field], values: Mapping[str, Any], size: int, version: int, filler: int
) -> bytes:
    assert not set(values) - {field.name for field in fields}, (
        "a value for a field that the schema doesn't have"
    )
    block = bytearray([filler]) * max([size, *(field.end for field in fields)])
    for field in fields:
        if field.since <= version:
            block[field.offset : field.end] = field.type.encode(values.get(field.name))
    return bytes(block[:size])
