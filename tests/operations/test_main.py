"""The `tickworks` command as a manual: help of every command, cheap, with examples and statuses."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from operations.main import COMMANDS, main

COMMAND = Path(sys.executable).with_name("tickworks")
HELP_CPU_S = 0.5
"""The promise of the manual: what `--help` may cost in processor time."""


def all_commands(command: click.Command = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of every command and subcommand."""
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            found += all_commands(below, (*path, name))
    return found


PATHS = all_commands()


def run(*arguments: str) -> tuple[subprocess.Popen, str, str, float]:
    """(process, stdout, stderr, processor seconds) of one call of the installed command."""
    process = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert process.stdout and process.stderr
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process, out, err, usage.ru_utime + usage.ru_stime


def test_every_group_and_command_is_covered():
    assert {("run",), ("ingest",), ("replay",), ("ticks", "show"), ("env", "check")} <= set(PATHS)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_is_a_manual_that_costs_next_to_nothing(path):
    process, out, err, _ = run(*path, "--help")
    least = min(run(*path, "--help")[3] for _ in range(2))  # the machine may be busy
    assert (process.returncode, err) == (0, "")
    assert least < HELP_CPU_S, f"{least:.2f} s: something heavy is imported"
    text = " ".join(out.split())
    assert "Example" in text
    assert f"tickworks {' '.join(path)}".strip() in text.partition("Example")[2]
    assert "Exit status: 0" in text
    assert "Traceback" not in out


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_an_unknown_option_is_wrong_usage(path):
    process, out, err, _ = run(*path, "--no-such-option")
    assert (process.returncode, out) == (2, "")
    assert "No such option" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("path", [p for p in PATHS if p in ((), ("env",), ("ticks",))], ids=" ".join)
def test_an_unknown_command_is_wrong_usage(path):
    process, out, err, _ = run(*path, "no-such-command")
    assert (process.returncode, out) == (2, "")
    assert "No such command" in err


def test_the_version_is_the_installed_one():
    process, out, _, _ = run("--version")
    assert process.returncode == 0
    assert out.startswith("tickworks, version ")


def test_a_command_is_imported_only_when_it_is_called():
    code = "import sys, operations.main; print([m for m in sys.modules if m.startswith('operations.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['operations.main']"
    context = click.Context(main)
    assert main.list_commands(context) == list(COMMANDS)
    assert main.get_command(context, "nothing") is None


def test_ctrl_c_in_any_command_is_status_130(monkeypatch):
    """Also while it still imports what it needs, before it can handle a signal itself."""

    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(main), "get_command", lambda *_: interrupted)
    result = click.testing.CliRunner().invoke(main, ["anything"])
    assert result.exit_code == 130
    assert result.stdout == ""
