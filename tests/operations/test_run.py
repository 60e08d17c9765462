"""The options of `tickworks run`: durations as people write them, and bounds."""

import click
import pytest
from click.testing import CliRunner

from operations.run import Duration, run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("50m", 3000),
        ("1.5m", 90),
        ("2h", 7200),
        ("24h", 86_400),
        ("1e2s", 100),
        (5, 5),
    ],
)
def test_durations_are_read_in_seconds_minutes_and_hours(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "soon", "5d", "1m30s", "0", "-1s", "24.1h", "nan", "inf", "1 0"])
def test_what_is_no_duration_is_told_with_the_text(text):
    with pytest.raises(click.BadParameter, match="write") as refused:
        Duration().convert(text, None, None)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [("--loss-a", "1.01"), ("--loss-b", "-0.1"), ("--skew-us", "-1"), ("--max-rate", "-1"), ("--seed", "-1")],
    ids=" ".join,
)
def test_values_out_of_range_are_wrong_usage(options):
    result = CliRunner().invoke(run, options)
    assert result.exit_code == 2
    assert options[0] in result.stderr
