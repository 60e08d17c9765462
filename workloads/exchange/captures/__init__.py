"""Recorded market data as MDP 3.0 packets: pcap files of the feed itself, and DBN files (MBO).

    capture = open_capture("esh4.mbo.dbn.zst")
    print(capture.info)
    for packets in capture.blocks(): ...

A file is recognised by its content. Anything that cannot be replayed whole and true is a `CaptureError`.
"""

from pathlib import Path

from workloads.exchange.captures.dbn import DbnCapture
from workloads.exchange.captures.pcap import PcapCapture, is_pcap
from workloads.exchange.captures.products import Terms
from workloads.exchange.captures.source import Capture, CaptureError, CaptureInfo, Source

__all__ = ["Capture", "CaptureError", "CaptureInfo", "Terms", "open_capture"]


def open_capture(
    path: str | Path, *, group: str | None = None, port: int | None = None, terms: Terms | None = None
) -> Capture:
    """Recognise a capture, read it once to check it, and return it ready to stream.

    Parameters
    ----------
    path : pcap, or DBN of schema MBO and one instrument; either may be gzip or Zstandard compressed
    group, port : of the flow to take from a pcap file that holds several
    terms : tick, multiplier, display factor and currency of the instrument of a DBN file, where the
        table of known products lacks it or is to be overruled

    Raises
    ------
    CaptureError
        It is something else, empty, cut off, damaged, or holds more than one replay can be made of.
    """
    path = Path(path)
    with Source(path) as source:
        head = source.read(16)
    if not head:
        raise CaptureError(f"{path} is empty (0 bytes); copy or download the file again")
    if is_pcap(head):
        if terms not in (None, Terms()):
            raise CaptureError(
                f"{path} is pcap, whose packets define the instruments themselves; leave out tick, "
                "multiplier, display factor and currency"
            )
        return PcapCapture(path, group=group, port=port)
    if head[:3] == b"DBN":
        if group is not None or port is not None:
            raise CaptureError(f"{path} is DBN, which holds no UDP flows; leave out the group and the port")
        return DbnCapture(path, terms or Terms())
    raise CaptureError(f"{path} {_what(head)}")


def _what(head: bytes) -> str:
    """What a file that we cannot replay seems to be, and what to do about it."""
    if head[:4] == b"\x0a\x0d\x0d\x0a":
        return "is pcapng (block type 0x0A0D0D0A at byte 0); convert it: editcap -F pcap IN.pcapng OUT.pcap"
    if head[:4] == b"\x50\x2a\x4d\x18" and head[8:11] == b"DBZ":
        return "is legacy DBZ, the predecessor of DBN; convert it: dbn IN.dbz --dbn -o OUT.dbn"
    if head[1:2] == b"\xa0" and head[0] * 4 in (56, 64):
        return (
            "looks like DBN records without the metadata in front (a fragment): nothing says which "
            "instrument they are of; download the whole file"
        )
    return (
        f"is neither pcap nor DBN (it begins with the bytes {head[:8].hex(' ')}); give a pcap file of the "
        "UDP feed (*.pcap) or a DBN file of schema mbo (*.dbn, *.dbn.zst)"
    )
