"""The transformer against its baselines and the bound, at the size of the main job."""

import numpy as np
import pytest

from tests.workloads.training.market import HORIZON, STEP_NS, best_probabilities, stored, tables
from workloads.ticks.archive import RunPartition
from workloads.training.job import TrainingConfig, dataset_commit, prepared, read_panel, run
from workloads.training.scoring import accuracy, difference_interval, hits, time_blocks


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_it_beats_the_linear_model_with_confidence_and_never_the_bound(seed, tmp_path):
    books, labels, paths = tables(24_000, instruments=4, seed=seed)
    archive = stored(tmp_path, books, labels)
    config = TrainingConfig(archive=str(tmp_path), dataset="book-1", seed=seed + 5, workers=0)
    scores = archive.read("scores", RunPartition(run(archive, config)["run"]))
    found = read_panel(archive, config, dataset_commit(archive, "book-1"))
    used = prepared(found, config)[0]
    truth = found.label_N[used.test].astype(int)
    names = np.array(scores["model"].to_pylist())
    forecast = {"bound": np.concatenate([best_probabilities(path) for path in paths])[used.test]}
    for name in ("vit", "logistic", "majority"):
        mine = np.stack([scores[p].to_numpy()[names == name] for p in ("p_down", "p_flat", "p_up")], 1)
        forecast[name] = mine[np.searchsorted(used.scored, used.test)]
    hit = {name: hits(forecast[name], truth) for name in forecast}
    block = time_blocks(found.ts_N[used.test], HORIZON * STEP_NS)
    better = difference_interval(hit["vit"], hit["logistic"], block)
    short = difference_interval(hit["bound"], hit["vit"], block)
    print({name: round(accuracy(forecast[name], truth), 4) for name in forecast}, better, short)  # noqa: T201
    assert better.low > 0.03
    assert difference_interval(hit["logistic"], hit["majority"], block).low > 0
    assert short.high > 0 and short.mean < 0.02
