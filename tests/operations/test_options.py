"""Values that several commands take, as people write them."""

import click
import pytest

from operations.options import Speed
from operations.replay import replay
from operations.run import run


@pytest.mark.parametrize("command", [run, replay], ids=["run", "replay"])
@pytest.mark.parametrize(
    ("text", "speed"), [("1", 1), ("200", 200), ("200x", 200), ("0.5", 0.5), ("full", 0), ("0", 0)]
)
def test_speeds_are_factors_or_full_in_every_command(command, text, speed):
    (option,) = (param for param in command.params if param.name == "speed")
    assert option.type.convert(text, None, None) == speed


@pytest.mark.parametrize("text", ["", "fast", "-1", "nan", "inf", "1e6", "x", "fullx"])
def test_what_is_no_speed_is_told_with_the_text(text):
    with pytest.raises(click.BadParameter, match="write") as refused:
        Speed().convert(text, None, None)
    assert repr(text) in str(refused.value)
