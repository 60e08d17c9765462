"""`tickworks env`, as a person and as a script call it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from environments.files import FOLDER, names
from operations.main import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["env", *arguments], catch_exceptions=False)


def broken(tmp_path: Path) -> str:
    path = tmp_path / "local.toml"
    path.write_text(
        (FOLDER / "local.toml").read_text().replace("14310", "80").replace("239.255.31.3", "10.0.0.1")
    )
    return str(path)


def test_list_names_every_environment_with_region_and_purpose() -> None:
    result = run("list")
    assert result.exit_code == 0
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == list(names())
    assert "local\t-\tOne machine" in result.stdout
    assert result.stderr == ""


def test_list_says_which_environment_has_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path)
    monkeypatch.setattr("environments.files.FOLDER", tmp_path)
    result = run("list")
    assert (result.exit_code, result.stdout) == (1, "local\t?\t?\n")
    assert result.stderr == "local: 2 mistakes; see tickworks env check local\n"


@pytest.mark.parametrize("name", names())
def test_check_says_in_one_line_that_an_environment_is_right(name: str) -> None:
    result = run("check", name)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name}: ok, ")
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_check_prints_one_sentence_per_mistake_and_fails(tmp_path: Path) -> None:
    result = run("check", broken(tmp_path))
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith("local.toml: channels[310].feeds.incremental_a.port = 80: ")
    assert second.startswith('local.toml: channels[310].feeds.snapshot.group = "10.0.0.1": ')
    assert result.stderr.endswith("2 mistakes\n")


def test_check_of_an_unknown_name_fails_and_lists_the_known_ones() -> None:
    result = run("check", "prd")
    assert result.exit_code == 1
    assert "the known ones are: dev, local, prod; write prod." in result.stdout


def test_show_prints_facts_and_what_follows_from_them() -> None:
    result = run("show", "prod")
    assert result.exit_code == 0
    for text in (
        "example-quant-ticks-prod-us-west-2",
        "232.31.0.129:15310",
        "192.168.100.139",
        "received by 5 hosts (several-vpcs)",
        "169.254.100.5 to 169.254.100.6",
        "s3://example-vendor-history/glbx-mdp3/",
        "research 200000000014",
    ):
        assert text in result.stdout
    assert result.stderr == ""


def test_show_leaves_out_what_an_environment_does_not_have() -> None:
    result = run("show", "local")
    assert "received on 127.0.0.1" in result.stdout
    assert "Subnets" not in result.stdout
    assert "accounts" not in result.stdout


@pytest.mark.parametrize("name", names())
def test_show_fits_a_terminal_of_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, run("show", name).stdout.splitlines())) <= 80


def test_show_json_is_one_object_for_machines() -> None:
    result = run("show", "prod", "--json")
    shown = json.loads(result.stdout)
    assert shown["environment"]["region"] == "us-east-2"
    assert shown["topology"]["flows"][0]["group"] == "232.31.0.1"
    assert shown["topology"]["distribution"] == "several-vpcs"
    assert shown["derived"]["tick_buckets"] == [
        "example-quant-ticks-prod-us-east-2",
        "example-quant-ticks-prod-us-west-2",
    ]


def test_show_of_a_broken_environment_prints_nothing_to_stdout(tmp_path: Path) -> None:
    result = run("show", broken(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "channels[310].feeds.incremental_a.port = 80" in result.stderr


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["check"]])
def test_help_gives_an_example_and_the_exit_statuses(command: list[str]) -> None:
    text = run(*command, "--help").stdout
    assert "Example" in text
    assert "tickworks env" in text
    assert "Exit status: 0" in text
