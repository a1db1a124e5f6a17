"""The command ``zoo``: its subcommands, those of plugins, and how every failure reaches the user."""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from zoo.cli import catalogue, check, data, evaluate, export, fit_prior, new_plugin, pictures, report, sweep, train
from zoo.cli.streams import lasting_streams
from zoo.errors import NameConflict, UsageError, ZooError, did_you_mean, is_out_of_memory
from zoo.plugins.manager import plugins, stdout_to_stderr


class Command(click.Command):
    """A command that takes ``--debug`` too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())


class Group(click.Group):
    """The group ``zoo``: plugins add to it when it is first asked for a command."""

    command_class = Command
    _asked_plugins = False

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; a name that is taken stays with whoever came first."""
        name = name or cmd.name or ""
        if name in self.commands:
            raise NameConflict(f"there is a command {name!r} already")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise UsageError(f"{name!r} is not a name for a command: letters, digits, '-' and '_'")
        cmd.get_short_help_str()  # which every `zoo --help` calls
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a user meets them."""
        self._ask_plugins()
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called `cmd_name`."""
        self._ask_plugins()
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a misspelt name."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            names = self.list_commands(ctx)
            ctx.fail(f"There is no command {args[0]!r}.{did_you_mean(args[0], names)} There are: {', '.join(names)}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; then name the plugins of which something failed meanwhile, unless the command did."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # perhaps while plugins were imported: they are not to be imported again
            ctx.meta["zoo.plugins_named"] = True
            raise
        finally:
            if not ctx.meta.get("zoo.plugins_named"):
                slow = [plugin for plugin in plugins().found if plugin.slow]
                for what, which in (("Broken", plugins().broken()), ("Slow", slow)):
                    names = ", ".join(f"{plugin.name} of {plugin}" for plugin in which)
                    if names:
                        click.echo(f"{what} plugins: {names}. See `zoo plugins`.", err=True)

    def _ask_plugins(self) -> None:
        if not self._asked_plugins:
            self._asked_plugins = True
            for plugin, hook in plugins().implementations("zoo_commands"):
                # A group of its own: what a plugin does to it does nothing to the commands of others.
                own = click.Group("zoo")
                own.command_class = Command
                with plugins().isolate(plugin):
                    hook(cli=own)
                for name, command in own.commands.items():
                    with plugins().isolate(plugin):
                        self.add_command(command, name)


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of a failure."
    )


def _set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["zoo.debug"] = True


def _disable_plugins(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        os.environ["ZOO_DISABLE_PLUGINS"] = "all"


@click.group(cls=Group, params=[_debug_option()], context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--no-plugins",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_disable_plugins,
    help="Load nothing but what comes with vae-zoo itself.",
)
@click.version_option(package_name="vae-zoo", prog_name="zoo")
def cli() -> None:
    """A model zoo for variational autoencoders.

    \b
    zoo list                            what there is
    zoo train mlp-vae                   train the tutorial's model
    zoo train mlp-vae latent_dim=2      change any part of its recipe
    zoo evaluate runs/mlp-vae           measure it
    zoo sample runs/mlp-vae             images decoded from draws of the prior
    """


for module in (train, catalogue, data, pictures, evaluate, fit_prior, sweep, report, export, check, new_plugin):
    for command in module.COMMANDS:
        command.params.append(_debug_option())
        cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``zoo`` and end the process: 0 done, 1 the run failed, 2 usage or configuration, 130 Ctrl-C."""
    # An operation that MPS lacks runs on the CPU instead, and torch names it. Torch reads this when it is imported.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    with lasting_streams():
        _main(sys.argv[1:] if arguments is None else list(arguments))


def _main(arguments: list[str]) -> NoReturn:
    debug = "--debug" in arguments
    try:
        code = cli.main(arguments, prog_name="zoo", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except ZooError as error:
        if debug:
            raise
        click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        if is_out_of_memory(error):
            click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
            click.echo("There is not enough memory for this. Ask for less at once.", err=True)
            sys.exit(1)
        click.secho("Unexpected error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(f"{type(error).__name__}: {error}\nRun it again with --debug for the traceback.", err=True)
        sys.exit(1)
    finally:
        atexit.register(stdout_to_stderr.__enter__)  # what is printed at the exit of the process is no result
