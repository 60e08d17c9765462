"""A job's config, its command line, its events."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ConfigDict

from workloads.errors import WorkloadError
from workloads.exchange.feed import Endpoint, Impairment
from workloads.exchange.job import ExchangeConfig
from workloads.exchange.simulator import SimulatorConfig
from workloads.ingest.job import FeedConfig, IngestConfig
from workloads.runtime import jobs as runtime
from workloads.runtime.jobs import JobConfigError, config_json, emit, events_to, job_main, parse_config


@dataclass(frozen=True)
class Part:
    """Nested in Config."""

    name: str
    size: int = 1


@dataclass(frozen=True)
class Config:
    """A job's config as the jobs have it."""

    folder: str = "var"
    count: int = 3
    share: float = 0.5
    wait: bool = False
    parts: tuple[Part, ...] = ()
    source: dict[str, str] = field(default_factory=dict)
    note: str | None = None
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


CONFIG = Config("x", 7, 0.25, True, (Part("a"), Part("b", 2)), {"feed": "f"}, "n")
INGEST = IngestConfig(feeds=(FeedConfig("A", "239.1.1.1", 14310),), first_seq=5, source={"feed": "day"})
EXCHANGE = ExchangeConfig(
    endpoints=(Endpoint("A", "239.1.1.1", 14310),),
    simulator=SimulatorConfig(seed=2**63 - 1, duration_ns=10**9, channel=310),
    impairments={"A": Impairment(loss=0.01, outages=((1, 2), (5, 9)))},
)


@pytest.mark.parametrize("config", [CONFIG, Config(), INGEST, EXCHANGE], ids=lambda c: type(c).__name__)
def test_a_config_written_as_json_reads_back_equal(config):
    assert parse_config(type(config), config_json(config), "here") == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"cuont": 3}', "cuont"),
        ('{"count": "many"}', "count: Input should be a valid integer"),
        ('{"parts": [{"name": "a"}, {"name": 1}]}', "parts.1.name"),
        ('{"parts": [{"name": "a", "sizw": 1}]}', "parts.0.sizw"),
        ('{"share": [1]}', "share"),
        ('{"count": 1', "config: Invalid JSON"),
        ("[]", "config"),
    ],
)
def test_what_is_wrong_with_a_config_is_named_with_its_place(text, words):
    with pytest.raises(JobConfigError) as error:
        parse_config(Config, text, "job.json")
    assert str(error.value).startswith("job.json is no Config: ")
    assert words in str(error.value)


@pytest.mark.parametrize(("config", "nested"), [(INGEST, "feeds"), (EXCHANGE, "endpoints")])
def test_the_jobs_refuse_keys_that_they_do_not_know(config, nested):
    values = json.loads(config_json(config))
    with pytest.raises(JobConfigError, match="colour"):
        parse_config(type(config), json.dumps(values | {"colour": 1}), "here")
    values[nested][0]["colour"] = 1
    with pytest.raises(JobConfigError, match=f"{nested}.0.colour"):
        parse_config(type(config), json.dumps(values), "here")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a job's command line in this process: (exit status, configs it ran with, events, stderr)."""

    def call(*arguments: str, run=None):
        ran: list[Config] = []
        monkeypatch.setattr(sys, "argv", ["job", *arguments])
        with pytest.raises(SystemExit) as left:
            job_main(Config, run or ran.append, "What it does.")
        out, err = capsys.readouterr()
        events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return left.value.code, ran, events, err

    return call


def test_a_job_takes_its_config_from_a_file(call, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(config_json(CONFIG))
    assert call("--config", str(path)) == (0, [CONFIG], [], "")


def test_options_overrule_the_file_and_the_defaults_stay(call, tmp_path):
    path = tmp_path / "job.json"
    path.write_text('{"count": 7, "folder": "x"}')
    _, ran, _, _ = call("--config", str(path), "--count", "8", "--wait", "true", "--share", "1e-3")
    assert ran == [Config("x", 8, 0.001, True)]
    assert call()[1] == [Config()]


def test_nested_values_are_given_as_json(call):
    _, ran, _, _ = call("--parts", '[{"name": "a", "size": 4}]', "--source", '{"feed": "day"}')
    assert ran == [Config(parts=(Part("a", 4),), source={"feed": "day"})]


@pytest.mark.parametrize("text", ["310", "true", "null", "[1]", '"quoted"', "plain", ""])
def test_text_stays_the_text_that_it_is(call, text):
    """A folder may be called 310."""
    _, ran, _, _ = call("--folder", text, "--note", text)
    assert ran == [Config(folder=text, note=text)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("[1]", "holds no JSON object"),
        ('{"folder": 1}', "folder"),
        (b"\xff\xfe", "is no JSON"),
        (None, "No such file"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_error_event_and_one_line(call, tmp_path, content, words):
    path = tmp_path / "job.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, ran, (event,), err = call("--config", str(path))
    assert (status, ran, event["event"]) == (1, [], "error")
    assert words in event["message"]
    assert str(path) in event["message"]
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1


def test_a_known_error_is_told_and_an_unknown_one_keeps_its_traceback(call):
    def known(config: Config) -> None:
        raise WorkloadError("the disk is gone; mount it")

    status, _, (event,), err = call(run=known)
    assert status == 1
    assert event == {"event": "error", "error": "WorkloadError", "message": "the disk is gone; mount it"}
    assert err == "Error: the disk is gone; mount it\n"

    def unknown(config: Config) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(run=unknown)


def test_a_full_disk_is_told_though_python_names_no_file_then(call):
    def full(config: Config) -> None:
        raise OSError(28, "No space left on device")

    status, _, (event,), _ = call(run=full)
    assert status == 1
    assert event["message"].startswith("No space left on device")
    with pytest.raises(OSError, match="Input/output"):
        call(run=lambda config: (_ for _ in ()).throw(OSError(5, "Input/output error")))


def test_an_unknown_option_is_wrong_usage_and_help_names_every_field(call, capsys, monkeypatch):
    assert call("--cuont", "3")[0] == 2
    monkeypatch.setattr(sys, "argv", ["job", "--help"])
    with pytest.raises(SystemExit):
        job_main(Config, lambda config: None, "What it does.")
    text = capsys.readouterr().out
    for option in ("--config", "--folder", "--count", "--parts", "--source", "What it does."):
        assert option in text


def test_events_are_lines_of_json_or_go_to_a_listener(capsys):
    emit("ready", path=Path("x"), n=1)
    assert json.loads(capsys.readouterr().out) == {"event": "ready", "path": "x", "n": 1}
    heard: list[runtime.Event] = []
    with events_to(heard.append):
        emit("ready", n=2)
    assert heard == [{"event": "ready", "n": 2}]
    assert capsys.readouterr().out == ""
    emit("done")
    assert capsys.readouterr().out != ""


@pytest.mark.parametrize("module", ["workloads.ingest.job", "workloads.exchange.job"])
def test_every_job_explains_itself(module):
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert result.returncode == 0, result.stderr
    assert "--config" in result.stdout
