"""From a TOML file to an `EnvironmentConfig`, or to an error that says everything that is wrong with it."""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from environments import aws
from environments.checks import problems
from environments.errors import ConfigError, Problem
from environments.model import EnvironmentConfig, Section

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the environments that this installation has."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name_or_path: str | Path) -> EnvironmentConfig:
    """Read and check one environment.

    Parameters
    ----------
    name_or_path
        One of `names`, or the path of a TOML file (anything with a slash or ending in ``.toml``).

    Raises
    ------
    ConfigError
        One line, hence one sentence, per mistake. Mistakes between keys are looked for once every
        single value is right.
    """
    path = _path(name_or_path)
    return parse(_read(path), path)


def parse(values: Mapping[str, Any], path: Path) -> EnvironmentConfig:
    """Check the values that TOML gave; ``path`` is where they are from. Raises as `load` does."""
    try:
        config = EnvironmentConfig.model_validate(values)
    except ValidationError as error:
        found = [_problem(details, values) for details in error.errors(include_url=False)]
    else:
        found = problems(config)
        if config.name != path.stem:
            found.append(
                Problem(
                    "name",
                    config.name,
                    f"the file is called {path.name}, and buckets and stacks are named after the environment",
                    aws.KIT,
                    f'write name = "{path.stem}", or rename the file to {config.name}.toml',
                )
            )
    if found:
        raise ConfigError("\n".join(f"{path.name}: {problem}" for problem in found))
    return config


def _path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return Path(name_or_path)
    if text in names():
        return FOLDER / f"{text}.toml"
    close = get_close_matches(text, names(), n=1)
    advice = f"write {close[0]}" if close else "write one of them, or the path of a TOML file"
    raise ConfigError(f"no environment is called {text}, the known ones are: {', '.join(names())}; {advice}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; write the path of a TOML file, or one of: "
            f"{', '.join(names())}."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8 text.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not TOML: {str(error).rstrip('.')} (TOML 1.0, https://toml.io/en/v1.0.0); "
            "correct that line."
        ) from error


def _problem(error: ErrorDetails, values: Mapping[str, Any]) -> Problem:
    """Put an error of pydantic into our words."""
    location = [part for part in error["loc"] if part != "[key]"]
    key, last = _key(location, values), str(location[-1])
    section, field = _declaration(location)
    value = _shown(error["input"])
    if error["type"] == "rule":
        context = error["ctx"]
        return Problem(key, value, context["rule"], context["source"], context["remedy"])
    if error["type"] == "extra_forbidden":
        known = sorted(section.model_fields)
        close = get_close_matches(last, known, n=1)
        rule = f"this key is unknown, the known ones are: {', '.join(known)}"
        return Problem(
            key,
            value,
            rule,
            aws.KIT,
            f'write "{close[0]}"' if close else "write one of them, or leave it out",
        )
    meaning = (field.description or "").rstrip(".") if field else ""
    if error["type"] == "missing":
        return Problem(
            key, "(none)", f"this key is required: {meaning}", aws.KIT, f"write {last} = <its value>"
        )
    rule = error["msg"][0].lower() + error["msg"][1:]
    remedy = f"write what it means: {meaning}" if meaning else "write a value of that kind"
    return Problem(key, value, rule, aws.KIT, remedy)


def _key(location: list[int | str], values: object) -> str:
    """Path of a key as a person would say it; a channel goes by its id, not by its place in the file."""
    text = ""
    for part in location:
        if isinstance(part, str):
            text += f".{part}" if text else part
            values = values.get(part) if isinstance(values, Mapping) else None
        else:
            values = values[part] if isinstance(values, list) and part < len(values) else None
            text += f"[{values.get('id', part) if isinstance(values, Mapping) else part}]"
    return text


def _declaration(location: list[int | str]) -> tuple[type[Section], FieldInfo | None]:
    """The innermost section on the way to a key, and the field of the key itself."""
    section: type[Section] = EnvironmentConfig
    field: FieldInfo | None = None
    annotation: Any = EnvironmentConfig
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            section = annotation
            field = section.model_fields.get(str(part))
            annotation = _inner(field.annotation) if field else None
        else:
            annotation = _element(annotation)
    return section, field


def _inner(annotation: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(annotation) in (Union, UnionType):
        return next(argument for argument in get_args(annotation) if argument is not type(None))
    return annotation


def _element(annotation: Any) -> Any:
    """``X`` of ``tuple[X, ...]`` and of ``Mapping[str, X]``."""
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    return _inner(arguments[-1]) if arguments else None


def _shown(value: object) -> str:
    """A value as TOML writes it, short enough for a sentence."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
