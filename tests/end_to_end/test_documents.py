"""What the documents show is true: every command runs, every link leads somewhere, the tree is the tree.

`tickworks` and Python lines are run; of `make` lines the targets and variables are checked, because CI is
inside `make test` already.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from operations.main import main
from tests.conftest import skip_or_fail

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "runbooks").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
)
SHELL = ("sh", "console")
LANGUAGES = (*SHELL, "text", "toml", "json", "python", "sql")
NOT_RUN = {
    "git": "needs the network",
    "cd": "changes a shell that is gone at the next line",
    "apt-get": "changes the machine",
    "sysctl": "changes the machine",
}
DAY = "day.mbo.dbn.zst"
"""What the documents call a recorded day."""


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def fences(document: Path) -> list[tuple[int, str, list[str]]]:
    """(line number of the opening, language, lines) of each fenced block."""
    found, language, start = [], None, 0
    body: list[str] = []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        fence = re.match(r"\s*```\s*(\S*)", line)
        if fence and language is None:
            language, start, body = fence[1], number, []
        elif fence:
            found.append((start, language, body))
            language = None
        elif language is not None:
            body.append(line)
    assert language is None, f"{name(document)}:{start}: the block never ends"
    return found


def commands(document: Path) -> list[tuple[str, str]]:
    """(place, command) of every line that the document tells to type."""
    found = []
    for start, language, body in fences(document):
        if language not in SHELL:
            continue
        number = start
        lines = iter(body)
        for raw in lines:
            number += 1
            place, line = f"{name(document)}:{number}", raw.strip()
            while line.endswith("\\"):
                number += 1
                line = line[:-1] + next(lines).strip()
            if language == "console":
                if not line.startswith("$ "):
                    continue
                line = line[2:]
            if shlex.split(line, comments=True):
                found.append((place, line))
    return found


COMMANDS = [command for document in DOCUMENTS for command in commands(document)]


def words(command: str) -> tuple[dict[str, str], list[str]]:
    """(variables set in front, words) of a command line; nothing of a shell beyond that may be shown."""
    parts = shlex.split(command, comments=True)
    assert not set(parts) & {"|", "&&", ";", "&", ">"}, f"this test runs plain commands only: {command}"
    variables = {}
    while parts and re.fullmatch(r"[A-Z_]+=.*", parts[0]):
        key, _, variables[key] = parts.pop(0).partition("=")
    return variables, parts


def test_there_are_documents_with_commands():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {name(document) for document in DOCUMENTS}
    assert any(command.startswith("make run") for _, command in COMMANDS)
    assert any(command.startswith("tickworks ") for _, command in COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_block_says_what_it_is(document):
    """A block without a language would hide its commands from these tests."""
    unknown = [(line, language) for line, language, _ in fences(document) if language not in LANGUAGES]
    assert unknown == []


@pytest.fixture(scope="session")
def home(short_run):
    """The folder of somebody who has run a session and downloaded a recorded day."""
    day = Path(os.environ.get("TICKWORKS_DATA", ROOT.parent / "shared/data"))
    day = day / "databento-es/esh4-glbx-mdp3-20231225.mbo.dbn.zst"
    if day.exists():
        (short_run.folder / DAY).symlink_to(day)
    return short_run


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_a_shown_command_works(place, command, home):
    variables, (program, *arguments) = words(command)
    program = program.removeprefix(".venv/bin/")
    if program in NOT_RUN:
        return
    if program == "make":
        assert_make_accepts(variables, arguments)
        return
    if DAY in arguments and not (home.folder / DAY).exists():
        skip_or_fail(f"{place}: no real day to stand for {DAY}; set TICKWORKS_DATA")
    assert program in ("tickworks", "python"), f"{place}: say in this test how to check {program!r}"
    started = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=home.folder if program == "tickworks" else ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert started.returncode == 0, f"{place}: {command}\n{started.stderr}"


def assert_make_accepts(variables: dict[str, str], arguments: list[str]) -> None:
    """The targets exist, and the Makefile reads the variables."""
    makefile = (ROOT / "Makefile").read_text()
    for argument in arguments:
        if "=" in argument:
            assert f"$({argument.partition('=')[0]})" in makefile, f"the Makefile never reads {argument}"
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS")}
    planned = subprocess.run(
        ["make", "-n", *arguments],
        cwd=ROOT,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert planned.returncode == 0, planned.stderr


INLINE = [
    (f"{name(document)}: {span}", span)
    for document in DOCUMENTS
    for span in sorted(set(re.findall(r"`((?:tickworks|make) [^`\n]+)`", document.read_text())))
]


@pytest.mark.parametrize("span", [span for _, span in INLINE], ids=[place for place, _ in INLINE])
def test_a_command_in_a_sentence_exists_with_its_options(span):
    _, (program, *arguments) = words(re.sub(r"<[^>]*>|\[[^\]]*\]|\.\.\.", "X", span))
    if program == "make":
        assert_make_accepts({}, arguments)
        return
    command: click.Command = main
    for argument in arguments:
        if isinstance(command, click.Group) and not argument.startswith("-"):
            names = command.list_commands(click.Context(command))
            shown = [part for part in argument.split("|") if part not in ("X",)]
            assert set(shown) <= set(names), f"{argument!r} is none of {names}"
            command = command.get_command(click.Context(command), shown[0])
        elif argument.startswith("--"):
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            assert argument.partition("=")[0] in known, f"{command.name} has no option {argument}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{name(document)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{name(document)} links to {target}"


def tree() -> list[Path]:
    """Paths that the annotated tree of the README names."""
    (block,) = [
        body
        for _, language, body in fences(ROOT / "README.md")
        if language == "text" and any(line.startswith("workloads/") for line in body)
    ]
    found: list[Path] = []
    above: list[Path] = []
    for line in block:
        entry = re.match(r"( *)(\S+(?: \S+)*?)(?:  +.*)?$", line)
        assert entry, f"no entry of a tree: {line!r}"
        depth = len(entry[1]) // 4
        above = above[:depth]
        found += [Path(*above, each) for each in entry[2].split()]
        above.append(found[-1])
    return found


def test_the_tree_in_the_readme_names_what_is_there():
    missing = [str(path) for path in tree() if not (ROOT / path).exists()]
    assert missing == []


def test_the_tree_in_the_readme_misses_nothing_at_the_top():
    """Files that people read before they work may be named by a link or in a sentence instead."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        skip_or_fail(f"this is no checkout: {listed.stderr.strip()}")
    top = {line.partition("/")[0] for line in listed.stdout.splitlines() if (ROOT / line).exists()}
    readme = (ROOT / "README.md").read_text()
    named = {path.parts[0] for path in tree()} | {"README.md"}
    missing = [
        entry
        for entry in sorted(top)
        if not entry.startswith(".")
        and entry not in named
        and (Path(ROOT / entry).is_dir() or entry not in readme)
    ]
    assert missing == []
