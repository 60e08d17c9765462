"""The `tickworks` command: a table of contents. Each subcommand is imported when it is called."""

import signal
from importlib import import_module

import click

COMMANDS = {
    "run": "operations.run:run",
    "env": "operations.env:env",
    "ingest": "operations.ingest:ingest",
    "replay": "operations.replay:replay",
    "submit": "operations.submit:submit",
    "backtest": "operations.backtest:backtest",
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

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; Ctrl-C that it does not handle itself ends it as shells expect."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(128 + signal.SIGINT)


@click.group(
    cls=LazyGroup,
    epilog="Exit status: 0 done, 1 an error that is told in one sentence, 2 wrong usage, 130 stopped by "
    "Ctrl-C; a command's own help names more. Results go to stdout, everything else to stderr.",
)
@click.version_option(package_name="tickworks")
def main() -> None:
    """Market data, research and backtesting on AWS, and on this machine.

    \b
    Examples:
      tickworks run                    a session over multicast, stored and proven, with a report
      tickworks run --capture FILE     the same from a recorded session
      tickworks submit features        one research stage as a Ray job
      tickworks backtest show          what the newest run's backtest earned
      tickworks ticks show             what is stored
      tickworks env check prod         whether an environment holds together

    Each command's --help is its manual.
    """
