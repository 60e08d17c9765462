"""The edge between a job and whoever started it: its config, its progress, its result.

A job is a program: ``python -m workloads.<name>.job --config FILE [--field value ...]``. It reports on
stdout, one JSON object a line, each with an ``event``: ``ready``, ``progress``, ``done``, ``error``.
"""

import dataclasses
import errno
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click
from pydantic import TypeAdapter, ValidationError

from workloads.errors import WorkloadError

Config = TypeVar("Config")

Event = dict[str, Any]


class JobConfigError(WorkloadError):
    """A job was given a config that it cannot use."""


class _Events:
    """Where events go: a line on stdout each, or a listener in this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.listener: Callable[[Event], None] | None = None


_events = _Events()


def emit(event: str, **fields: Any) -> None:
    """Tell whoever started this job; safe from any thread."""
    with _events.lock:
        if _events.listener is not None:
            _events.listener({"event": event, **fields})
            return
        sys.stdout.write(json.dumps({"event": event, **fields}, default=str) + "\n")
        sys.stdout.flush()


@contextmanager
def events_to(listener: Callable[[Event], None]) -> Iterator[None]:
    """Give the events of jobs that run in this process to a function instead of stdout."""
    _events.listener = listener
    try:
        yield
    finally:
        _events.listener = None


def commands() -> Iterator[str]:
    """Lines that whoever started this job writes to its stdin, until it closes it."""
    for line in sys.stdin:
        yield line.strip()


def config_json(config: Any) -> str:
    """The text that ``--config`` reads back into an equal config."""
    return TypeAdapter(type(config)).dump_json(config, indent=2).decode()


def parse_config(cls: type[Config], text: str, where: str) -> Config:
    """Read a frozen config dataclass from JSON. Unknown and wrong values are named, with the known fields."""
    try:
        return TypeAdapter(cls).validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'config'}: {item['msg']} (got {item.get('input')!r})"
            for item in error.errors()
        )
        raise JobConfigError(f"{where} is no {cls.__name__}: {problems}") from error


def read_config(cls: type[Config], path: str | None, overrides: Mapping[str, str]) -> Config:
    """A config from a JSON file, if one is named, and from fields given as text, which overrule it."""
    texts = {name for name, kind in get_type_hints(cls).items() if kind in (str, str | None)}
    values = _read(path) if path else {}
    values.update({name: text if name in texts else _value(text) for name, text in overrides.items()})
    return parse_config(cls, json.dumps(values), path or "the command line")


def job_main(cls: type[Config], run: Callable[[Config], Any], doc: str | None) -> None:
    """The ``main()`` of a job: ``--config`` plus one option for each field of its config dataclass.

    A known error becomes one ``error`` line and exit status 1; an unknown one keeps its traceback.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # Config is a dataclass by contract

    def callback(config: str | None, **overrides: str | None) -> None:
        try:
            run(read_config(cls, config, {k: v for k, v in overrides.items() if v is not None}))
        except WorkloadError as error:
            emit("error", error=type(error).__name__, message=str(error))
            raise click.ClickException(str(error)) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if error.filename is None and not full:
                raise
            message = (
                f"{error.strerror}, running {config}; free some and run it again" if full else str(error)
            )
            emit("error", error=type(error).__name__, message=message)
            raise click.ClickException(message) from error

    options: list[click.Parameter] = [
        click.Option(["--config"], help="JSON file with the whole config.", metavar="FILE"),
        *(
            click.Option([f"--{f.name.replace('_', '-')}", f.name], help=f"Default: {_default(f)}.")
            for f in fields
        ),
    ]
    click.Command(cls.__name__, callback=callback, params=options, help=doc)()


def _read(path: str) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text())
    except ValueError as error:  # no JSON, or no UTF-8
        raise JobConfigError(f"{path} is no JSON: {error}; write the config anew") from error
    if not isinstance(values, dict):
        raise JobConfigError(f"{path} holds no JSON object; write its fields by name between braces")
    return values


def _value(text: str) -> Any:
    """An override as JSON where it is JSON, else as the string that it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
