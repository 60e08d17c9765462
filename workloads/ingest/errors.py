"""What can go wrong between the socket and the archive."""

from workloads.errors import WorkloadError


class IngestError(WorkloadError):
    """Ingest cannot go on as it is; what was received so far is in the spool."""


class SpoolError(IngestError):
    """The spool cannot be written or read."""
