"""`tickworks run`: the whole main job on this machine, from multicast to a backtest and a report."""

from pathlib import Path

import click

from operations.options import Speed
from operations.stages import STAGES

DEFAULT_DURATION = "100m"


class Duration(click.ParamType[float]):
    """Seconds from ``90``, ``90s``, ``50m`` or ``2h``."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        units = {"s": 1.0, "m": 60.0, "h": 3600.0}
        text = str(value)
        number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
        try:
            seconds = float(number) * units[unit]
        except ValueError:
            self.fail(f"{text!r} is no duration; write for example 90s, 50m or 2h", param, ctx)
        if not 0 < seconds <= 86_400:
            self.fail(f"{text!r} is out of range; write more than 0 and at most 24h", param, ctx)
        return seconds


@click.command(
    epilog="Exit status: 0 what arrived is proven; 1 an error; 3 the gaps table does not agree with what was "
    "sent; 130 stopped by Ctrl-C."
)
@click.option(
    "--capture",
    type=click.Path(path_type=Path),
    help="Replay a recorded session (pcap, DBN) instead of the simulator.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=7,
    show_default=True,
    help="Of the simulated session and the losses.",
)
@click.option(
    "--duration",
    type=Duration(),
    default=DEFAULT_DURATION,
    show_default=True,
    help="Simulated trading time.",
)
@click.option(
    "--speed",
    type=Speed(),
    help="Times the original pace, or full. Default: 300 for the simulator, full for a capture.",
)
@click.option(
    "--max-rate",
    type=click.IntRange(0),
    default=40_000,
    show_default=True,
    help="Most datagrams per second, all feeds together; 0 is no bound.",
)
@click.option(
    "--loss-a", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share lost on feed A."
)
@click.option(
    "--loss-b", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share lost on feed B."
)
@click.option(
    "--skew-us",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Microseconds that B runs behind A.",
)
@click.option("--env", "environment", default="local", show_default=True, help="Environment with the feeds.")
@click.option("--channel", type=int, help="Channel id. Default: the environment's only channel.")
@click.option(
    "--tick", type=str, help="Price step of a DBN capture's instrument, if its product is not known."
)
@click.option("--multiplier", type=str, help="Money per point and lot of that instrument.")
@click.option("--display-factor", type=str, help="Quoted price over wire price of that instrument.")
@click.option("--currency", type=str, help="Quote currency of that instrument.")
@click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/runs"),
    show_default=True,
    help="Folder of all runs; each gets its own, and `latest` points to the newest.",
)
@click.option(
    "--until",
    type=click.Choice(STAGES),
    default=STAGES[-1],
    show_default=True,
    help="Last stage to run; ticks is receive, store and prove.",
)
@click.option("--quiet", is_flag=True, help="No progress, no summary; errors only.")
def run(quiet: bool, runs: Path, **options: object) -> None:
    """Run the main job here: from an exchange's multicast to stored ticks, a model, a backtest, a report.

    The exchange is a simulator, or a capture that you name. Its packets cross this machine's loopback
    interface as real multicast; ingest receives, arbitrates, decodes and stores them as Parquet with a
    commit log. Then every sequence number that was sent is compared with what is stored. On the stored
    ticks three Ray jobs follow: features, training, backtest. No AWS account and no container is needed.

    \b
    Examples:
      tickworks run                                     a simulated session of 100 minutes
      tickworks run --until ticks                       receive, store and prove only
      tickworks run --loss-a 0.01 --loss-b 0.01         with losses, found and listed
      tickworks run --capture day.mbo.dbn.zst           a recorded day
      tickworks run --capture feed.pcap --speed 1       at the pace at which it was sent

    The report is RUNS/latest/report.html; `tickworks ticks` looks at the stored ticks. If an earlier run
    was killed, its ticks are finished first.
    """
    from environments.errors import ConfigError
    from operations.jobs import JobFailedError
    from operations.main_job import MainJob, Options, StoppedError
    from workloads.errors import WorkloadError

    try:
        job = MainJob(Options(runs=runs, quiet=quiet, **options))  # type: ignore[arg-type]  # click checked them
        proven = job.run()
    except (ConfigError, WorkloadError, JobFailedError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or runs}: {error.strerror}") from error
    except StoppedError as stopped:
        click.echo(str(stopped), err=True)
        raise SystemExit(130) from stopped
    except KeyboardInterrupt as interrupt:
        click.echo("stopped; what was received is committed, or will be by the next run", err=True)
        raise SystemExit(130) from interrupt
    if not proven:
        raise SystemExit(3)
