"""The research stages of the main job, each a Ray job on the ticks of one run: features, training, backtest.

One local Ray, three submissions. What the stages were given and what they answered is a record of plain
values, which `run.json` keeps: the report shows it, and `tickworks backtest reproduce` starts from it.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from operations.progress import JobProgress
from operations.stages import STAGES
from workloads.backtest.config import BacktestConfig
from workloads.features.config import FeaturesConfig
from workloads.runtime.cluster import LocalRay
from workloads.runtime.jobs import config_json
from workloads.runtime.submit import JobSpec
from workloads.ticks.archive import DataCommit, code_version
from workloads.training.config import TrainingConfig

Timed = Callable[[str], AbstractContextManager[None]]
"""Notes the seconds of a stage."""
DEADLINE_S = 1_800.0
"""Of one stage: far beyond what it needs, so that a stage that hangs ends as well."""


def run_research(
    folder: Path,
    data_commit: DataCommit,
    *,
    seed: int,
    until: str,
    timed: Timed,
    quiet: bool,
    record: dict[str, Any],
) -> None:
    """Run the stages up to ``until`` on the archive of a run's folder.

    Parameters
    ----------
    record : dict
        Filled stage by stage with plain values, so that what was done before an error is known. By stage:
        ``config`` (what it was given) and ``result`` (its ``done`` event). ``skipped``: why the stages
        after the last one there were not run; None: all that were asked for were.

    Raises
    ------
    JobFailedError, WorkloadError
        If Ray does not start or a stage fails; what earlier stages stored stays in the archive.
    """
    record["skipped"] = f"{STAGES[1]}: interrupted"
    with ExitStack() as stack:
        with timed("ray"):
            ray = stack.enter_context(LocalRay(folder / "jobs"))
        for stage in STAGES[1 : STAGES.index(until) + 1]:
            record["skipped"] = f"{stage}: interrupted"
            config = _config(stage, folder, data_commit, seed, record)
            spec = JobSpec.of(
                stage,
                f"workloads.{stage}.job",
                config,
                metadata={"data_commit": data_commit.id, "seed": str(seed), "code": code_version()},
                deadline_s=DEADLINE_S,
            )
            with timed(stage), JobProgress(stage, quiet=quiet) as progress:
                result = ray.run(spec, progress.seen)
            result.pop("event")
            record[stage] = {"config": json.loads(config_json(config)), "result": result}
            if result.get("skipped"):
                record["skipped"] = f"{stage}: {result['skipped']}"
                return
    record["skipped"] = None


def _config(stage: str, folder: Path, market: DataCommit, seed: int, record: dict[str, Any]) -> Any:
    """What a stage is given: the names of what the stages before it made."""
    archive = str(folder / "archive")
    if stage == "features":
        return FeaturesConfig(archive=archive, data_commit=market)
    dataset = record["features"]["result"]["dataset"]
    if stage == "training":
        checkpoints = str((folder / "jobs/checkpoints").absolute())
        return TrainingConfig(archive=archive, dataset=dataset, seed=seed, checkpoints=checkpoints)
    run = record["training"]["result"]["run"]
    return BacktestConfig(archive=archive, dataset=dataset, scores_run=run, data_commit=market)
