"""`tickworks submit`: run a research job as a cluster would get it; here on a Ray of this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workloads.runtime.submit import JobSpec


@dataclass(frozen=True)
class Registered:
    """A job that can be submitted by name; its modules are imported when it is."""

    module: str
    config: str
    """``module:Class`` of its config dataclass."""
    help: str


JOBS: dict[str, Registered] = {
    "features": Registered(
        "workloads.features.job",
        "workloads.features.config:FeaturesConfig",
        "clean ticks, make bars, book tensors and labels",
    ),
    "training": Registered(
        "workloads.training.job",
        "workloads.training.config:TrainingConfig",
        "train the model and its baselines, score every row",
    ),
    "backtest": Registered(
        "workloads.backtest.job",
        "workloads.backtest.config:BacktestConfig",
        "trade the scores against the stored book",
    ),
}


class Setting(click.ParamType[tuple[str, str]]):
    """``field=value``."""

    name = "field=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        field, equals, text = str(value).partition("=")
        if not (field and equals):
            self.fail(f"{value!r} sets nothing; write field=value, such as seed=7", param, ctx)
        return field.strip().replace("-", "_"), text


@click.command(
    epilog="Exit status: 0 the job is done; 1 an error, or the job failed, told in its own words; 130 "
    "stopped by Ctrl-C, and the job with it."
)
@click.argument("job", type=click.Choice(list(JOBS)))
@click.option("--env", "environment", default="local", show_default=True, help="Where it runs.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file with the job's config. Default: every field at its default.",
)
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    help="A field of the config, as JSON or text; may be repeated, and overrules --config.",
)
@click.option("--archive", help="URI of the archive. Default: the config's, else the environment's.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="For config, logs and result. Default: var/jobs/<JOB>-<time>.",
)
@click.option("--cpus", type=click.IntRange(1), help="Cores its tasks may use. Default: all.")
@click.option(
    "--ray",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Join the Ray of a run that is going on in FOLDER instead of starting one.",
)
@click.option(
    "--variable", "variables", multiple=True, metavar="NAME", help="Environment variable to pass on."
)
@click.option("--deadline", type=click.FloatRange(0, min_open=True), help="Seconds until it is stopped.")
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, as JSON, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def submit(
    job: str,
    environment: str,
    config: Path | None,
    settings: tuple[tuple[str, str], ...],
    archive: str | None,
    folder: Path | None,
    cpus: int | None,
    ray: Path | None,
    variables: tuple[str, ...],
    deadline: float | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Submit JOB through Ray's job API, follow it, and print its result.

    \b
    JOB is one of:
      features   clean ticks, make bars, book tensors and labels
      training   train the model and its baselines, score every row
      backtest   trade the scores against the stored book

    A Ray is started on this machine for the job, on 127.0.0.1 with free ports and a token, and nothing of
    it is left afterwards. `python -m workloads.JOB.job --help` lists the fields of a job's config.

    \b
    Examples:
      tickworks submit features --archive var/runs/latest/archive
      tickworks submit training --config training.json --set seed=8
      tickworks submit backtest --config backtest.json --dry-run
      tickworks submit features --set name=mine --json > result.json

    Progress goes to stderr, the result to stdout. The job's log is FOLDER/JOB.log.
    """
    import json
    from contextlib import ExitStack
    from datetime import UTC, datetime

    from environments.errors import ConfigError
    from workloads.errors import WorkloadError
    from workloads.runtime.submit import Jobs

    try:
        given = dict(settings) | ({"archive": archive} if archive else {})
        spec = job_spec(job, environment, config, given, variables=variables, deadline_s=deadline)
        if dry_run:
            click.echo(spec.as_json())
            return
        from operations.progress import JobProgress
        from workloads.runtime.cluster import LocalRay, joined

        folder = folder or Path("var/jobs") / f"{job}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        with ExitStack() as stack:
            jobs: Jobs
            if ray is not None:
                jobs = stack.enter_context(joined(ray, folder))
            else:
                jobs = stack.enter_context(LocalRay(folder, cpus=cpus)).jobs
            progress = stack.enter_context(JobProgress(job, quiet=quiet))
            done = jobs.run(spec, progress.seen)
    except (ConfigError, WorkloadError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    (folder / f"{job}.result.json").write_text(json.dumps(done, indent=2))
    click.echo(json.dumps(done, indent=2) if as_json else summary(done))
    click.echo(f"log and result: {folder}", err=True)


def job_spec(
    job: str, environment: str, config: Path | None, settings: Mapping[str, str], **others: Any
) -> "JobSpec":
    """What `tickworks submit` submits: the config whole and checked, the archive's place made absolute.

    Raises
    ------
    ConfigError
        If the environment is unknown, or has no place for jobs yet.
    JobConfigError
        If the config has unknown or wrong fields.
    """
    import json
    from importlib import import_module

    from environments.errors import ConfigError
    from environments.files import load
    from workloads.runtime.jobs import read_config
    from workloads.runtime.submit import JobSpec
    from workloads.ticks.archive import code_version

    place = load(environment)
    if place.on_aws:
        raise ConfigError(
            f"no cluster to submit to yet in {place.name}: jobs run on a Ray of this machine only; "
            "use --env local, with --archive for the data"
        )
    module, _, name = JOBS[job].config.partition(":")
    fields = dict(settings)
    if "archive" not in fields and (config is None or "archive" not in _keys(config)):
        fields["archive"] = place.archive_uri
    read = read_config(getattr(import_module(module), name), str(config) if config else None, fields)
    whole = json.loads(JobSpec.of(job, "", read).config)
    if "://" not in whole["archive"]:
        whole["archive"] = str(Path(whole["archive"]).absolute())
    labels = {"environment": place.name, "code": code_version()}
    labels |= {
        key: str(whole[key]) for key in ("dataset", "scores_run", "seed") if whole.get(key) is not None
    }
    return JobSpec.of(job, JOBS[job].module, json.dumps(whole, indent=2), metadata=labels, **others)


def summary(done: Mapping[str, Any]) -> str:
    """A ``done`` event as lines of ``name  value``; nested names joined by dots."""
    lines = dict(_flat({name: value for name, value in done.items() if name != "event"}))
    width = max(map(len, lines), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{name}.")
        elif isinstance(value, list):
            found.append((above + name, f"{len(value):,} entries" if len(str(value)) > 80 else str(value)))
        elif isinstance(value, float):
            found.append((above + name, f"{value:,.6g}"))
        else:
            found.append((above + name, f"{value:,}" if type(value) is int else str(value)))
    return found


def _keys(config: Path) -> set[str]:
    """Names of the fields in a config file; what is wrong with it is told by whoever reads it whole."""
    import json

    try:
        return set(json.loads(config.read_text()))
    except (OSError, ValueError, TypeError):
        return set()
