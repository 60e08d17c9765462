"""The base of every error that an environment raises on purpose."""

from dataclasses import dataclass


class ConfigError(Exception):
    """The facts of a place are wrong; every line of the message is one sentence about one mistake.

    Carries one string, so that it survives pickling between processes.
    """

    @property
    def sentences(self) -> tuple[str, ...]:
        """One per mistake."""
        return tuple(str(self).splitlines())


@dataclass(frozen=True)
class Problem:
    """One mistake in an environment. As a string it is one sentence on one line, whatever the value holds."""

    key: str
    """Path of the key, as in ``vpcs.transit.cidr``; a channel goes by its id: ``channels[310].venue``."""
    value: object
    """What stands there now."""
    rule: str
    """What it breaks."""
    source: str
    """Who says so."""
    remedy: str
    """What to write instead."""

    def __str__(self) -> str:
        text = f"{self.key} = {self.value}: {self.rule} ({self.source}); {self.remedy}."
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
