"""What docs/models.md shows is true."""

import re

from tests.conftest import ROOT
from workloads.models.alpha import FlowConfig, ScoreConfig
from workloads.models.portfolio import PositionConfig
from workloads.models.risk import RiskConfig

TEXT = (ROOT / "docs" / "models.md").read_text()


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(example, {})


def test_the_defaults_are_those_of_the_code():
    position = PositionConfig()
    for line in (
        f"| `half_lives` ({', '.join(f'{h:g}' for h in FlowConfig().half_lives)}) |",
        f"| `ridge` ({FlowConfig().ridge:g}) |",
        f"| `least_rows` ({FlowConfig().least_rows}) |",
        f"| `least_moves` ({ScoreConfig().least_moves}) |",
        f"| `decay` ({RiskConfig().decay:g}) |",
        f"| `max_position` ({position.max_position}), `max_trade` ({position.max_trade}) |",
        f"| `risk_aversion` ({position.risk_aversion:g}) |",
        f"| `exit_share` ({position.exit_share:g}) |",
    ):
        assert line in TEXT
