"""The simulator's bound: the best forecast that anybody could have made, at given decision times.

The simulator's hidden state and its parameters are known in the run's folder only (``truth.npz``,
``exchange.json``); no stage of the research flow reads them. A capture has no such bound.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.exchange.forecast import DriftModel, forecast_at
from workloads.exchange.job import ExchangeConfig
from workloads.exchange.simulator.truth import Truth
from workloads.runtime.jobs import parse_config

TRUTH = "truth.npz"
CONFIG = "exchange.json"


def best_forecast(
    folder: Path, instrument_id: NDArray[np.int64], ts: NDArray[np.int64], horizon_ns: int
) -> NDArray[np.float64] | None:
    """P(down, flat, up) of the mid from ``ts`` to ``ts + horizon_ns`` by the optimal filter.

    Parameters
    ----------
    folder : Path
        Of the run.
    instrument_id, ts : int64[n]
        Decision times, ns. The filter knows every step that ended by then, and nothing later.

    Returns
    -------
    float64[n, 3]
        NaN where the simulated session doesn't cover the time, or the instrument was not simulated. None:
        the run has no record of a simulated session, or its steps don't divide the horizon.
    """
    path = folder / TRUTH
    if not path.is_file():
        return None
    truth, model = Truth.load(path), _model(folder)
    if model is None or len(truth.ts_step) < 2:
        return None
    step = int(truth.ts_step[1] - truth.ts_step[0])
    if horizon_ns <= 0 or horizon_ns % step:
        return None
    out = np.full((len(ts), 3), np.nan)
    first, end = int(truth.ts_step[0]), int(truth.ts_step[-1]) + step
    covered = (ts > first) & (ts <= end) & ((ts - first) % step == 0)
    for place, one in enumerate(truth.instrument_id.tolist()):
        mine = (instrument_id == one) & covered
        if mine.any():
            seen = truth.observations(place)
            out[mine] = forecast_at(seen, model, truth.ts_step, step, ts[mine], horizon_ns // step)
    return out


def _model(folder: Path) -> DriftModel | None:
    path = folder / CONFIG
    try:
        config = parse_config(ExchangeConfig, path.read_text(encoding="utf-8"), str(path))
    except (OSError, WorkloadError):
        return None
    return config.simulator.drift if config.simulator else None
