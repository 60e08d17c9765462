"""Groups of definitions at their limits. (Field by field, in every version: test_decode.)"""

import numpy as np
import pytest

from workloads.exchange import encode, mdp3
from workloads.exchange.decode import Decoder
from workloads.exchange.packets import Packets
from workloads.exchange.reference import definition_groups, roots

SPREAD = encode.definition(
    mdp3.DEFINITION_SPREAD,
    instrument_id=9,
    activation=5,
    expiration=7,
    depth=10,
    attributes=6,
    legs=((1, 1, 1), (2, 2, 3)),
)
START = mdp3.MESSAGE_HEADER_BYTES + mdp3.DEFINITION[mdp3.DEFINITION_SPREAD].itemsize


def walked(message, end=None):
    buffer = np.frombuffer(message, np.uint8)
    return definition_groups(buffer, mdp3.DEFINITION_SPREAD, START, end or len(message), 1)


def test_all_groups_are_read():
    found = walked(SPREAD)
    assert (found.activation, found.expiration, found.depth, found.attributes) == (5, 7, 10, 6)
    assert [(leg["instrument_id"], leg["side"], leg["ratio"]) for leg in found.legs] == [(1, 1, 1), (2, 2, 3)]


def test_groups_cut_at_any_byte_read_as_empty_never_as_something_else():
    whole = walked(SPREAD)
    for end in range(START, len(SPREAD)):
        cut = walked(SPREAD, end)
        assert cut.activation in (None, whole.activation)
        assert cut.depth in (None, whole.depth)
        assert cut.attributes in (0, whole.attributes)
        assert cut.legs == []


def test_bytes_behind_the_message_are_never_read():
    assert walked(SPREAD + b"\xff" * 50, len(SPREAD)) == walked(SPREAD)


def test_longer_entries_of_a_later_version_are_stepped_over():
    events = SPREAD[START : START + 3 + 2 * 9]
    longer = bytes([9 + 4, 0, 2]) + b"".join(events[3 + 9 * i : 12 + 9 * i] + b"new!" for i in range(2))
    assert walked(SPREAD[:START] + longer + SPREAD[START + len(events) :]) == walked(SPREAD)


@pytest.mark.parametrize("n", [0, 255])
def test_a_group_of_entries_without_bytes_ends_nowhere_wrong(n):
    found = walked(SPREAD[:START] + bytes([0, 0, n]) * 5)
    assert (found.activation, found.depth, found.attributes, found.legs) == (None, None, 0, [])


def test_messages_of_different_layouts_are_read_apart_and_keep_their_place():
    future = encode.definition(mdp3.DEFINITION_FUTURE, instrument_id=1)
    payload = bytes(12) + SPREAD + future + encode.definition(mdp3.DEFINITION_FUTURE, instrument_id=2)
    packets = Packets.of([payload])
    tables = Decoder().decode(packets).tables
    rare = tables["rare"]
    found = list(roots(packets.buffer, rare, tables["messages"]["template"][rare["message"]]))
    assert {r.kind: (r.message.tolist(), r.blocks["instrument_id"].tolist()) for r in found} == {
        mdp3.DEFINITION_FUTURE: ([1, 2], [1, 2]),
        mdp3.DEFINITION_SPREAD: ([0], [9]),
    }
    for r in found:
        assert all(start < end <= len(payload) for start, end in zip(r.offset, r.end, strict=True))
