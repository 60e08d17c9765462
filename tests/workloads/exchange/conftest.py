"""What the wire tests share: the oracle of every schema version."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests import `oracle` by its name

from oracle import Oracle  # found through the line above


@pytest.fixture(scope="session")
def oracles(data_folder: Path) -> dict[int, Oracle]:
    """One oracle per schema version. Version 7 has no file of its own: version 8 reads and writes it."""
    found = (Oracle(path) for path in sorted((data_folder / "cme-mdp3/schema").glob("Cme.*.xml")))
    oracles = {oracle.version: oracle for oracle in found}
    assert set(oracles) == {5, 6, 8, 9, 10, 11, 12, 13}
    return oracles | {7: oracles[8]}


@pytest.fixture(scope="session")
def newest(oracles: dict[int, Oracle]) -> Oracle:
    """The oracle of the newest version that is known, 13."""
    return oracles[13]
