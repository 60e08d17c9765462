"""What training cannot work with."""

from workloads.errors import WorkloadError


class TrainingDataError(WorkloadError):
    """The dataset's rows are not what the training job's config says, or too many."""


class IncompleteDatasetError(WorkloadError):
    """Features of the dataset are still being made, or the job that made them died."""


class NothingToTrainError(WorkloadError):
    """The dataset is too small to fit anything on."""


class StateError(WorkloadError):
    """Bytes are no model or checkpoint, or those of another run."""
