"""What the tests share: where real data lies, and what a machine must offer."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def skip_or_fail(reason: str) -> None:
    """Skip with the reason; where everything must be present (REQUIRE_DATA=1), fail instead."""
    if os.environ.get("REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real market data that is never part of this repository: see docs/data.md."""
    folder = Path(os.environ.get("TICKWORKS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        skip_or_fail(f"no real data under {folder}; set TICKWORKS_DATA to the folder that holds it")
    return folder
