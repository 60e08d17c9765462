"""The `tickworks` command: a table of contents. Each subcommand is imported when it is called."""

from importlib import import_module

import click

COMMANDS = {
    "run": "operations.run:run",
    "env": "operations.env:env",
    "ingest": "operations.ingest:ingest",
    "replay": "operations.replay:replay",
    "ticks": "operations.ticks:ticks",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is needed, so that help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=LazyGroup)
@click.version_option(package_name="tickworks")
def main() -> None:
    """Market data, research and backtesting on AWS, and on this machine."""
