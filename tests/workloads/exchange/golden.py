"""Invented messages of every supported template, written by the oracle: for Hypothesis and for golden files.

`python tests/workloads/exchange/golden.py SCHEMA_FOLDER` writes tests/data/mdp3_golden.json anew.
"""

import json
import random
import string
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from names import SUPPORTED
from oracle import FORMATS, Composite, Field, Number, Oracle, Plain, in_packet

PATH = Path(__file__).parents[2] / "data/mdp3_golden.json"
VERSIONS = (5, 6, 7, 8, 9, 10, 11, 12, 13)

TIME = (1_400_000_000_000_000_000, 1_900_000_000_000_000_000)
RANGES = {
    "TransactTime": TIME,
    "LastUpdateTime": TIME,
    "EventTime": TIME,
    "NumberOfOrders": (0, 3),  # so that trades find their orders
    "ReferenceID": (0, 5),  # so that orders find their level, or miss it
    "MDPriceLevel": (0, 10),
    "MDEntrySize": (0, 2**31 - 2),
    "LastQty": (0, 2**31 - 2),
    "MDDisplayQty": (0, 2**31 - 2),
}
"""Fields whose values must make sense to be worth testing; the others take all that fits."""
MANTISSA = (-(10**16), 10**16)


def value(field: Field, rng: random.Random, nulls: float) -> Any:
    """Something that this field can carry: often an extreme, null at the given rate where null exists."""
    type_ = field.type
    if isinstance(type_, Composite):
        if type_.exponent is None:
            return {part.name: value(part, rng, nulls) for part in type_.parts}
        (mantissa,) = (part for part in type_.parts if part.name == "mantissa")
        assert isinstance(mantissa.type, Plain)
        if mantissa.type.null is not None and rng.random() < nulls:
            return None
        low, high = MANTISSA if mantissa.type.primitive == "int64" else (-(2**31), 2**31 - 2)
        return Number(_number(low, high, rng), type_.exponent)
    if type_.constant is not None:
        return type_.constant
    if type_.null is not None and rng.random() < nulls:
        return None
    if type_.values and isinstance(next(iter(type_.values.values())), str):
        return rng.choice(list(type_.values.values()))
    if field.name == "MDFeedType":
        return rng.choice(["GBX", "GBI"])
    if type_.primitive == "char":
        letters = string.ascii_uppercase + string.digits
        return "".join(rng.choices(letters, k=rng.randint(0, type_.length)))
    bits = 8 * type_.size
    low, high = (
        (0, 2**bits - 1) if FORMATS[type_.primitive].isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )
    low, high = RANGES.get(field.name, (low, high))
    found = _number(low, high, rng)
    return found if found != type_.null else found - 1


def _number(low: int, high: int, rng: random.Random) -> int:
    edges = [number for number in (low, -1, 0, 1, high) if low <= number <= high]
    return rng.choice(edges) if rng.random() < 0.3 else rng.randint(low, high)


def contents(
    oracle: Oracle, template: int, counts: Mapping[str, int], rng: random.Random, nulls: float
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Fields and groups of one message; ``counts`` says how many entries a group has, 2 if it doesn't say."""
    layout = oracle.messages[template]
    fields = {field.name: value(field, rng, nulls) for field in layout.fields}
    groups = {
        group.name: [
            {field.name: value(field, rng, nulls) for field in group.fields}
            for _ in range(counts.get(group.name, 2))
        ]
        for group in layout.groups
    }
    return fields, groups


def future(version: int) -> int:
    """Version in the header of a message with blocks longer than the schema's: 14, where 13 is the newest."""
    return 14 if version == VERSIONS[-1] else version


def templates(oracle: Oracle, version: int) -> list[int]:
    """What we support of what this version has."""
    return [t for t in SUPPORTED if t in oracle.messages and oracle.messages[t].since <= version]


def cases(oracles: Mapping[int, Oracle]) -> Iterator[dict[str, Any]]:
    """One packet per version and template, of two messages.

    The first has two entries a group, some fields null. The second has every nullable field null and
    comes from a sender newer than the schema: longer blocks, a group that nobody knows, padding that is
    not zero; its last group is empty.
    """
    for version in VERSIONS:
        oracle = oracles[version]
        for template in templates(oracle, version):
            rng = random.Random(1000 * version + template)
            names = [group.name for group in oracle.messages[template].groups]
            plain = oracle.encode(template, *contents(oracle, template, {}, rng, 0.2), version=version)
            fields, groups = contents(oracle, template, dict.fromkeys(names[-1:], 0), rng, 1.0)
            grown = oracle.encode(
                template,
                fields,
                groups,
                version=future(version),
                grow=dict.fromkeys(("", *names), 3),
                filler=0xA5,
                tail=bytes.fromhex("0200 01 beef"),
            )
            payload = in_packet(100 * version + template, TIME[0] + template, plain, grown)
            found = oracle.packet(payload)
            assert found["error"] is None
            assert all(message["error"] is None for message in found["messages"])
            yield {
                "version": version,
                "template": template,
                "hex": payload.hex(),
                "messages": [{name: m[name] for name in ("fields", "groups")} for m in found["messages"]],
            }


def text(found: Iterator[dict[str, Any]]) -> str:
    """One case a line, so that a change shows as the lines it touches."""
    return "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in found) + "\n]\n"


def load() -> list[dict[str, Any]]:
    """The golden cases, with decimals as `Number`."""
    return [_with_numbers(case) for case in json.loads(PATH.read_text())]


def _with_numbers(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _with_numbers(part) for name, part in found.items()}
    if isinstance(found, list):
        is_number = len(found) == 2 and all(isinstance(part, int) for part in found)
        return Number(*found) if is_number else [_with_numbers(part) for part in found]
    return found


if __name__ == "__main__":
    read = {oracle.version: oracle for oracle in map(Oracle, sorted(Path(sys.argv[1]).glob("Cme.*.xml")))}
    PATH.write_text(text(cases(read | {7: read[8]})))
