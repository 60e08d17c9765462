"""`tickworks backtest`: show what a run's backtest earned, and prove that it can be had again."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from operations.reproduction import Compared

LATEST = Path("var/runs/latest")
DIFFERENT = 3
SHOWN = 12
"""Differences of a table that are listed."""

_COLUMNS = (
    ("pnl", "profit", "{:,.2f}"),
    ("gross_pnl", "before costs", "{:,.2f}"),
    ("spread", "spread", "{:,.2f}"),
    ("impact", "impact", "{:,.2f}"),
    ("commission", "commission", "{:,.2f}"),
    ("cost_share", "cost share", "{:.1%}"),
    ("return_on_capital", "return", "{:.4%}"),
    ("sharpe", "Sharpe", "{:,.1f}"),
    ("sharpe_low", "from", "{:,.1f}"),
    ("sharpe_high", "to", "{:,.1f}"),
    ("max_drawdown", "drawdown", "{:.4%}"),
    ("turnover", "turnover", "{:,.2f}"),
    ("orders", "orders", "{:,}"),
    ("trades", "fills", "{:,}"),
    ("round_trips", "round trips", "{:,}"),
    ("hit_rate", "hit rate", "{:.1%}"),
    ("holding_seconds", "held, s", "{:,.1f}"),
    ("open_lots", "open lots", "{:,}"),
)


@click.group(epilog="Exit status: 0 done, 1 an error, 2 wrong usage; reproduce: 3 something differs.")
def backtest() -> None:
    """Look at a run's backtest, or rerun all that led to it.

    \b
    Examples:
      tickworks backtest show
      tickworks backtest reproduce var/runs/latest
    """


@backtest.command(epilog="Exit status: 0 shown, 1 there is no such run or it has no backtest, 2 wrong usage.")
@click.argument("run", required=False, default=str(LATEST), metavar="[RUN_OR_REPORT]")
@click.option("--json", "as_json", is_flag=True, help="The backtest's whole result as JSON.")
def show(run: str, as_json: bool) -> None:
    """Show what each strategy earned and what it cost.

    RUN_OR_REPORT is a run's folder, its report.html or run.json, or the id of a backtest in var/runs;
    default: the newest run. Money is in the currency of the instruments. How each figure is defined:
    docs/backtest.md.

    \b
    Examples:
      tickworks backtest show
      tickworks backtest show var/runs/20261122T181548/report.html
      tickworks backtest show backtest-1f3a9c04
    """
    from workloads.errors import WorkloadError

    try:
        result = _result(run)
    except (WorkloadError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for line in statistics_table(result):
        click.echo(line)


@backtest.command(
    epilog="Exit status: 0 every file and number is the same, 1 it cannot be rerun, 2 wrong usage, "
    "3 something differs, 130 stopped by Ctrl-C."
)
@click.argument("report", type=click.Path(path_type=Path), default=LATEST, required=False)
@click.option("--archive", metavar="URI", help="The run's archive; default: the one beside the report.")
@click.option(
    "--stage",
    type=click.Choice(["features", "training", "backtest"]),
    default="features",
    show_default=True,
    help="First stage to rerun; the ones before it are taken as they are.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the rerun, which is kept; default: a temporary one, removed when all is equal.",
)
def reproduce(report: Path, archive: str | None, stage: str, scratch: Path | None) -> None:
    """Rerun features, training and backtest from what REPORT recorded, and compare bit for bit.

    REPORT is report.html or the folder of a run; default: the newest one. Data commit, configs and seed come
    from the record in the report; the archive is the one beside it, or --archive. The rerun works in an
    archive of its own, which shares the market's files. Then the SHA-256 of every result file and every
    number of the results are compared.

    \b
    Examples:
      tickworks backtest reproduce var/runs/latest/report.html
      tickworks backtest reproduce --stage backtest
      tickworks backtest reproduce report.html --archive s3://acme-ticks/research
    """
    from operations.reproduction import code_note, recorded, reproduce
    from workloads.errors import WorkloadError

    made = Path(tempfile.mkdtemp(prefix="tickworks-reproduce-")) if scratch is None else scratch
    equal = False
    try:
        if scratch is not None and scratch.exists() and any(scratch.iterdir()):
            raise click.ClickException(f"{scratch} is not empty; name a new folder")
        first = recorded(report)
        if note := code_note(first):
            click.echo(f"note: {note}", err=True)
        source = archive or str(first.archive)
        compared = reproduce(first, source, made, stage, lambda text: click.echo(text, err=True))
        equal = not any(row.differences for row in compared)
    except (WorkloadError, OSError) as error:
        raise click.ClickException(f"{error}{_kept(made)}") from error
    finally:
        if scratch is None and (equal or not _kept(made)):
            shutil.rmtree(made, ignore_errors=True)
    for line in comparison_table(compared):
        click.echo(line)
    if not equal:
        click.echo(f"the rerun differs; it lies in {made}", err=True)
        sys.exit(DIFFERENT)
    click.echo("the same, bit for bit", err=True)


def statistics_table(result: dict[str, Any]) -> list[str]:
    """A row a figure, a column a strategy."""
    strategies: dict[str, dict[str, Any]] = result["strategies"]
    names = list(strategies)
    told = [{**figures, **figures["costs"]} for figures in strategies.values()]
    rows = [["", *names]]
    for key, title, form in _COLUMNS:
        values = [figures.get(key) for figures in told]
        rows.append([title, *("none" if value is None else form.format(value) for value in values)])
    capital = sorted({f"{f['capital']:,.0f} {f['currency']}" for f in told})
    period = f"{_clock(result['period']['start'])} to {_clock(result['period']['end'])} UTC"
    lines = [
        f"run {result['run']}, scores of {result['training_run']}, dataset {result['dataset']}",
        f"test period {period}, capital {', '.join(capital)}",
        "",
        *_aligned(rows),
        "",
        f"Sharpe: {result['sharpe']}",
    ]
    return lines + [f"left out, {what}: {why}" for what, why in result["left_out"].items()]


def comparison_table(compared: list[Compared]) -> list[str]:
    """A row a table or result, then what differs."""
    rows = [["stage", "compared", "count", "rows", ""]]
    differences = []
    for row in compared:
        verdict = f"{len(row.differences)} differ" if row.differences else "equal"
        unit = ("value" if row.rows is None else "file") + ("" if row.count == 1 else "s")
        rows.append(
            [row.stage, row.what, f"{row.count} {unit}", "" if row.rows is None else f"{row.rows:,}", verdict]
        )
        differences += [f"{row.stage} {row.what}: {text}" for text in row.differences[:SHOWN]]
        if len(row.differences) > SHOWN:
            differences.append(f"{row.stage} {row.what}: and {len(row.differences) - SHOWN} more")
    return [*_aligned(rows, left=2), *differences]


def _aligned(rows: list[list[str]], left: int = 1) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _result(run: str) -> dict[str, Any]:
    """The backtest's ``done`` event of a run's folder or report, or of the run with that backtest."""
    from operations.reproduction import ReproductionError, recorded

    path = Path(run)
    if path.exists() or "/" in run:
        return recorded(path).result("backtest")
    for folder in sorted(LATEST.parent.glob("*/run.json"), reverse=True):
        found = recorded(folder)
        research = found.run.get("research") or {}
        if research.get("backtest", {}).get("result", {}).get("run") == run:
            return found.result("backtest")
    raise ReproductionError(
        f"no run in {LATEST.parent} has a backtest {run}; name a run's folder or its report.html"
    )


def _kept(folder: Path) -> str:
    """Where the logs of a failed rerun are."""
    logs = folder / "jobs"
    return f" (logs: {logs})" if logs.exists() else ""


def _clock(ts: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(ts / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
