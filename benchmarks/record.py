"""The last line of every benchmark: one result as JSON, beside its peer from the same run."""

import json
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def record(name: str, value: float, unit: str, *, peer: str, peer_value: float) -> str:
    """One JSON line: name, value, unit, peer, peer_value, ratio, machine, commit.

    ``value`` and ``peer_value`` share the unit; ``ratio`` is value / peer_value, null when the peer's is 0.
    """
    return json.dumps(
        {
            "name": name,
            "value": _rounded(value),
            "unit": unit,
            "peer": peer,
            "peer_value": _rounded(peer_value),
            "ratio": _rounded(value / peer_value) if peer_value else None,
            "machine": machine(),
            "commit": commit(),
        }
    )


def machine() -> str:
    """Processor model, number of processors, kernel release."""
    return f"{_processor()}, {os.cpu_count()} CPUs, Linux {platform.release()}"


def commit() -> str:
    """Short hash of the commit that was measured; ``+`` behind it when tracked files differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")
