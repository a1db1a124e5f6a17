"""The command ``zoo``: its subcommands, those of plugins, and how every failure reaches the user."""

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
from zoo.plugins.manager import DISTRIBUTION, Plugin, plugins, stdout_to_stderr
from zoo.plugins.registry import Names, import_target

COMMANDS = (
    Command("train", "Train MODEL and create a run folder.", "zoo.cli.train:train"),
    Command("list", "List models, components of one kind, or weights.", "zoo.cli.catalogue:list_"),
    Command("show", "Show a recipe, the parameters of a component, or a card of weights.", "zoo.cli.catalogue:show"),
    Command("data", "Describe a data set, or list those that are available.", "zoo.cli.data:data"),
    Command("evaluate", "Measure the trained model of RUN.", "zoo.cli.evaluate:evaluate"),
    Command("fit-prior", "Fit a prior to the latents of a trained model.", "zoo.cli.fit_prior:fit_prior"),
    Command("plugins", "List the plugins, and what is wrong with broken ones.", "zoo.cli.catalogue:plugins_"),
    Command("schema", "Print the JSON Schema of recipe files, for editors.", "zoo.cli.catalogue:schema"),
    Command("completion", "Print the completion script for SHELL.", "zoo.cli.completion:completion"),
)


class LazyGroup(click.Group):
    """The group ``zoo``. Its subcommands are data, those of plugins included; one is imported when it is called."""

    @functools.cached_property
    def names(self) -> Names[Command]:
        """Every subcommand by name. A name of the zoo's own stays the zoo's."""
        names: Names[Command] = Names("command", plugins())
        for command in COMMANDS:
            names.add(command.name, Plugin("core", DISTRIBUTION, version(DISTRIBUTION)), command)
        own = {command.name for command in COMMANDS}
        for plugin, command in plugins().collect("zoo_commands"):
            if (problem := _problem_of(command)) is not None:
                plugin.errors.append(f"zoo_commands returned {problem}")
            elif not plugin.builtin and command.name in own:
                plugin.errors.append(f"zoo_commands: there is a command {command.name!r} already")
            else:
                names.add(command.name, plugin, command)
                own |= {command.name} if plugin.builtin else set()
        return names

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names: those of the core first, then those of each plugin."""
        own = [command.name for command in COMMANDS]
        return [*own, *(name for name in self.names.matching() if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand called `cmd_name`.

        Raises:
            UnknownName, NameConflict: there is none, or two plugins claim the name.
            ComponentError: it cannot be imported.
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


def _problem_of(command: object) -> str | None:
    """What is wrong with a command as a plugin returned it, if anything."""
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
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of a failure."
    )


def _set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["zoo.debug"] = True


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


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``zoo`` and end the process: 0 done, 1 the run failed, 2 usage or configuration, 130 Ctrl-C."""
    # Torch reads these when it is imported. An operation that MPS lacks runs on the CPU instead. Threads spin for a
    # millisecond at most while they wait: on a busy machine, longer spinning makes small networks several times slower.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
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
