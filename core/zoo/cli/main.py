"""The command ``zoo``: built-in and plugin subcommands, and error handling."""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from zoo.cli.streams import lasting_streams
from zoo.errors import ComponentError, ZooError, is_out_of_memory
from zoo.plugins.hookspecs import Command
from zoo.plugins.isolation import stdout_to_stderr
from zoo.plugins.manager import DISTRIBUTION, Plugin, plugins
from zoo.plugins.registry import Names, import_target

COMMANDS = (
    Command("train", "Train MODEL and create a run folder.", "zoo.cli.train:train"),
    Command("list", "List models, components of one kind, or weights.", "zoo.cli.catalogue:list_"),
    Command("show", "Show a recipe, the parameters of a component, or a card of weights.", "zoo.cli.catalogue:show"),
    Command("data", "Describe a data set, or list those that are available.", "zoo.cli.data:data"),
    Command("evaluate", "Measure the trained model of RUN.", "zoo.cli.evaluate:evaluate"),
    Command("fit-prior", "Fit a prior to the latents of a trained model.", "zoo.cli.fit_prior:fit_prior"),
    Command("plugins", "List the plugins and the errors of broken ones.", "zoo.cli.catalogue:plugins_"),
    Command("completion", "Print the completion script for SHELL.", "zoo.cli.completion:completion"),
)


class LazyGroup(click.Group):
    """The group ``zoo``. A subcommand is imported when it is called."""

    @functools.cached_property
    def names(self) -> Names[Command]:
        """The subcommands by name. Names of built-in commands are reserved."""
        names: Names[Command] = Names("command", plugins())
        core = Plugin("core", DISTRIBUTION, version(DISTRIBUTION))
        for command in COMMANDS:
            names.add(command.name, core, command)
        for plugin, command in plugins().collect("zoo_commands"):
            if (problem := _problem_of(command)) is not None:
                plugin.errors.append(f"zoo_commands returned {problem}")
            elif not plugin.builtin and command.name in {claim.name for claim in names if claim.plugin.builtin}:
                plugin.errors.append(f"zoo_commands: the command {command.name!r} is built in")
            else:
                names.add(command.name, plugin, command)
        return names

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the subcommands: those of the core, then those of plugins."""
        own = [command.name for command in COMMANDS]
        return [*own, *(name for name in self.names.matching() if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand.

        Raises:
            UnknownName, NameConflict: no plugin claims the name, or several do.
            ComponentError: the command cannot be imported.
        """
        claim = self.names.find(cmd_name)
        command = import_target(claim, "command", debug=plugins().debug)
        if not isinstance(command, click.Command):
            raise ComponentError(
                f"command {cmd_name!r} of {claim.plugin} is a {type(command).__name__}, not a click command"
            )
        if not any(parameter.name == "debug" for parameter in command.params):
            command.params.append(_debug_option())
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands with their summaries, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.names.find(name).item.summary) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of subcommands and options, without importing them."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=self.names.find(name).item.summary) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the subcommand, then list broken and slow plugins, unless the command has done so."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # possibly while importing plugins: do not import them again
            ctx.meta["zoo.plugins_named"] = True
            raise
        finally:
            if not ctx.meta.get("zoo.plugins_named"):
                slow = [plugin for plugin in plugins() if plugin.slow]
                for label, group in (("Broken", plugins().broken()), ("Slow", slow)):
                    names = ", ".join(f"{plugin.name} of {plugin}" for plugin in group)
                    if names:
                        click.echo(f"{label} plugins: {names}. See `zoo plugins`.", err=True)


def _problem_of(command: object) -> str | None:
    """The error in a command returned by a plugin, if any."""
    if not isinstance(command, Command):
        return f"{command!r}, not a zoo.Command"
    fields = (command.name, command.summary, command.target)
    if not all(isinstance(value, str) and value.isprintable() for value in fields):
        return f"{command!r}: its name, summary and target must be lines of text"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", command.name):
        return f"a command named {command.name!r}: a name has letters, digits, '-' and '_'"
    if not re.fullmatch(r"[\w.]+:\w+", command.target):
        return f"a command with the target {command.target!r}: expected 'module:attribute'"
    return None


def _debug_option() -> click.Option:
    """The option ``--debug`` of every command; `_main` looks it up in the arguments."""
    return click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")


def _disable_plugins(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        os.environ["ZOO_DISABLE_PLUGINS"] = "all"


@click.group(cls=LazyGroup, params=[_debug_option()], context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--no-plugins",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_disable_plugins,
    help="Load only the plugins that are part of vae-zoo.",
)
@click.version_option(package_name="vae-zoo", prog_name="zoo")
def cli() -> None:
    """A model zoo for variational autoencoders.

    \b
    zoo list                            list the models
    zoo train mlp-vae                   train a model
    zoo train mlp-vae latent_dim=2      override any part of its recipe
    zoo evaluate runs/mlp-vae           measure it
    zoo sample runs/mlp-vae             decode draws from the prior
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``zoo`` and exit: 0 success, 1 failure, 2 usage or configuration error, 130 Ctrl-C."""
    # Read by torch on import: operations that MPS lacks run on the CPU.
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
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ZooError):
            _print_error("Error: ", str(error))
            sys.exit(error.exit_code)
        if is_out_of_memory(error):
            _print_error("Error: ", "Out of memory. Reduce the size of the model, the batch or the data.")
        else:
            _print_error("Unexpected error: ", f"{type(error).__name__}: {error}\nUse --debug for the traceback.")
        sys.exit(1)
    finally:
        atexit.register(stdout_to_stderr.__enter__)  # output at exit is not a result


def _print_error(label: str, message: str) -> None:
    click.secho(label, fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
