"""What a transformer must beat: the most frequent outcome, and a linear model of the same windows."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from workloads.training.forecasters import LinearForecaster, MajorityForecaster, linear_inputs
from workloads.training.loop import Samples
from workloads.training.samples import Scaling
from workloads.training.scoring import log_loss

STRENGTHS = (1.0, 10.0, 100.0)
"""Tried weights of the data against the penalty: C of scikit-learn times the number of samples."""
MOST_SAMPLES = 30_000
"""Evenly taken where there are more: bounds memory, and neighbours say almost the same."""
ITERATIONS = 200
_NEVER = -30.0
"""Log-odds of an outcome that training did not hold."""


def majority(samples: Samples, scaling: Scaling) -> MajorityForecaster:
    """Frequencies of the training labels, each outcome counted once more (Laplace's rule)."""
    count = np.bincount(samples.label_N[samples.train], minlength=3) + 1.0
    return MajorityForecaster(count / count.sum(), scaling)


def logistic(samples: Samples, scaling: Scaling, window: int) -> LinearForecaster:
    """Multinomial logistic regression; of `STRENGTHS` the one with the least validation loss.

    Without validation samples the strongest penalty is taken. One outcome alone in training gives its
    frequencies.
    """
    step = -(-len(samples.train) // MOST_SAMPLES)
    train = samples.train[::step]
    label = samples.label_N[train].astype(np.int64)
    count = np.bincount(label, minlength=3)
    inputs = linear_inputs(samples.inputs_NF, train, window)
    if (count > 0).sum() < 2:
        intercept = np.where(count > 0, 0.0, _NEVER)
        return LinearForecaster(np.zeros((3, inputs.shape[1])), intercept, window, scaling)
    truth = samples.label_N[samples.validation].astype(np.int64)
    fitted = []
    for strength in STRENGTHS if len(truth) else STRENGTHS[:1]:
        with threadpool_limits(1):  # sums in one order: equal bits on one CPU type and library versions
            solver = LogisticRegression(C=strength / len(train), max_iter=ITERATIONS)
            model = _forecaster(solver.fit(inputs, label), window, scaling)
        loss = log_loss(model.probabilities(samples.inputs_NF, samples.validation), truth)
        fitted.append((loss, -strength, model))
    return min(fitted, key=lambda item: item[:2])[2] if len(truth) else fitted[0][2]


def _forecaster(solved: LogisticRegression, window: int, scaling: Scaling) -> LinearForecaster:
    """With three rows of coefficients, also where training held two outcomes."""
    coefficients = np.zeros((3, solved.coef_.shape[1]))
    intercept = np.full(3, _NEVER)
    if len(solved.classes_) == 2:  # one row: of the second outcome against the first
        intercept[solved.classes_] = 0.0, solved.intercept_[0]
        coefficients[solved.classes_[1]] = solved.coef_[0]
    else:
        intercept[solved.classes_] = solved.intercept_
        coefficients[solved.classes_] = solved.coef_
    return LinearForecaster(coefficients, intercept, window, scaling)
