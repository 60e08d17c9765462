"""Map a function over items on Ray, in order: what a job passes to its core in place of ``map``."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from workloads.errors import WorkloadError

Item = TypeVar("Item")
Result = TypeVar("Result")

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in the process of a submitted job, and in none of that job's workers."""


class Map(Protocol):
    """What a stage's core takes: the built-in ``map`` or `ray_map`."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]:
        """Results of ``function``, one an item, in the items' order."""
        ...


class WorkerLostError(WorkloadError):
    """The process that worked on an item died, and so did those that tried it again."""


def job_map() -> Map:
    """`ray_map` in the process of a Ray job, else the built-in ``map``. Ray is imported only when used."""
    return ray_map if JOB_VARIABLE in os.environ else map


def ray_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    /,
    *,
    cpus: float = 1,
    retries: int = 3,
    in_flight: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Result]:
    """Results of ``function``, one an item, in the items' order, each made by a worker process of Ray.

    Lazy like the built-in: nothing starts before the first result is asked for, and ``items`` is read no
    further than ``in_flight`` items ahead. Workers don't print: what they print is in their logs.

    Parameters
    ----------
    function
        Picklable, and safe to repeat: when the process that runs it dies, it runs again on that item.
    cpus
        Cores that one call uses.
    retries
        How often an item is tried again after the process that worked on it died.
    in_flight
        Most items that are being worked on, or are finished and wait for their turn. Default: twice as
        many as can run at once.
    progress
        Told the number of finished items when an item finishes; they finish in any order.

    Raises
    ------
    WorkerLostError
        If the process of an item died more than ``retries`` times.
    Exception
        What ``function`` raised, as it was raised; what is still running is given up.
    """
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    task: Any = ray.remote(num_cpus=cpus, max_retries=retries, retry_exceptions=False)(_apply)
    shared = ray.put(function)  # once, however many items there are
    most = in_flight or 2 * max(1, int(ray.cluster_resources()["CPU"] // cpus))  # type: ignore[no-untyped-call]
    waiting: deque[Any] = deque()
    running: list[Any] = []
    finished = 0

    def first() -> Any:
        nonlocal running, finished
        while waiting[0] in running:
            done, running = ray.wait(running, num_returns=1)
            finished += len(done)
            if progress is not None:
                progress(finished)
        return _get(waiting.popleft())

    try:
        for item in items:
            if len(waiting) == most:
                yield first()
            waiting.append(task.remote(shared, item))
            running.append(waiting[-1])
        while waiting:
            yield first()
    finally:
        for left in waiting:
            ray.cancel(left)


def _apply(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _get(reference: Any) -> Any:
    """The value of a task, or its own error."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise WorkerLostError(
            f"the process that worked on an item died every time: {str(error).strip().splitlines()[0]}; "
            f"look into the worker logs of this Ray, and at the machine's memory"
        ) from error
