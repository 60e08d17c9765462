"""The base of every error that the workloads raise on purpose."""


class WorkloadError(Exception):
    """Something outside our code is wrong; the message says what, where, and what to do next.

    Carries one string, so that it survives pickling between processes.
    """
