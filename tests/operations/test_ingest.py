"""`tickworks ingest`: which channel, where it is received and stored."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from environments.errors import ConfigError
from environments.files import load
from operations.ingest import ingest, ingest_config
from workloads.ingest.job import FeedConfig

TWO = """
[[channels]]
venue = "XCBT"
id = 318

[channels.feeds.incremental_a]
group = "232.1.1.1"
port = 20001
source = "10.1.2.3"
peak_packets_s = 9
payload_bytes = 99
"""


@pytest.fixture
def two_channels(tmp_path: Path) -> Path:
    """`local` with a second channel, of one feed from one source."""
    path = tmp_path / "two.toml"
    local = Path(load.__code__.co_filename).with_name("local.toml").read_text()
    path.write_text(local.replace('name = "local"', 'name = "two"') + TWO)
    return path


def test_the_only_channel_is_taken_with_all_its_feeds():
    config = ingest_config(load("local"), None)
    assert (config.channel, config.venue, config.interface) == (310, "XCME", "127.0.0.1")
    assert [(feed.name, feed.port) for feed in config.feeds] == [("A", 14310), ("B", 15310), ("S", 16310)]
    assert config.spool == "var/spool/local/310"
    assert config.archive == load("local").archive_uri


def test_one_of_several_must_be_named(two_channels):
    with pytest.raises(ConfigError, match=r"has 2 channels \(310, 318\); say which: --channel ID"):
        ingest_config(load(two_channels), None)
    config = ingest_config(load(two_channels), 318)
    assert config.feeds == (FeedConfig("A", "232.1.1.1", 20001, "10.1.2.3"),)
    assert (config.venue, config.spool) == ("XCBT", "var/spool/two/318")


def test_a_channel_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ConfigError, match="310"):
        ingest_config(load("local"), 311)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--env", "lokal"), "no environment is called lokal"),
        (("--channel", "5"), "5"),
        (("--env", "nowhere.toml"), "nowhere.toml cannot be read"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_line(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(ingest, options)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
