"""What the tests share: where real data lies, and what a machine must offer."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from workloads.runtime.submit import RAY_ENVIRONMENT

if TYPE_CHECKING:
    from workloads.runtime.cluster import LocalRay

for _name, _value in RAY_ENVIRONMENT.items():  # before any test imports Ray
    os.environ.setdefault(_name, _value)

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


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[LocalRay]":
    """One real Ray for all tests of this process; starting it takes seconds. Submit jobs with ``run``."""
    from workloads.runtime.cluster import LocalRay

    with LocalRay(tmp_path_factory.mktemp("ray"), cpus=2) as ray:
        yield ray


@pytest.fixture(scope="session")
def ray_driver(local_ray: "LocalRay") -> "Iterator[LocalRay]":
    """The same Ray, with this very process as its driver: `ray_map` and trainers work here."""
    from workloads.runtime.cluster import driver

    with driver(local_ray):
        yield local_ray
