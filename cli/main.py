"""The command ``poxvisio``: what commands there are, and how they end.

A command's module is imported when it is called or asked for help, so that ``poxvisio --help`` answers at once and the
commands that speak HTTP never load the server. Exit codes: 0 done, 1 some photos failed, 2 usage, a wrong
setting or a data set that cannot be used, 3 the service refused or is out of reach, 130 interrupted.
"""

import importlib
import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any, Final

import click

from cli.options import example
from shared import heap
from shared.errors import DataRefused, InvalidSetting, PoxVisioError, TrainingRefused

ROOT: Final = Path(__file__).resolve().parent.parent

# name -> (module, attribute, what the list of commands says)
_COMMANDS: Final = {
    "demo": ("cli.demo", "demo", "Run everything once with the sample photos and account for each one."),
    "up": ("cli.up", "up_command", "Run everything on this machine until Ctrl-C."),
    "classify": ("cli.classify", "classify", "Send photos and wait for what became of each."),
    "jobs": ("cli.jobs", "jobs", "List, show, wait for and cancel jobs."),
    "events": ("cli.events", "events", "Print what happened, and follow what happens."),
    "verify": ("cli.verify", "verify", "Hold a folder against a receipt; offline, given the public keys as a file."),
    "train": ("cli.train", "train", "Train networks on a data set, and write the bundle."),
    "evaluate": ("cli.evaluate", "evaluate", "Write the report of a training run."),
    "data": ("cli.data", "data", "Draw practice data; check what a network is to learn from."),
    "models": ("cli.models", "models", "Publish models, make one live, and take it back."),
    "admin": ("cli.admin", "admin", "Make tenants and API keys."),
    "migrate": ("cli.admin", "migrate_command", "Bring the database to the present schema."),
}

_OF_TRAINING: Final = frozenset(
    {"tensorflow", "keras", "pandas", "scipy", "imagehash", "sklearn", "kagglesdk", "jsonschema"}
)


class Failure(click.ClickException):
    """An error as one line on stderr; exit code 3."""

    exit_code = 3

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"poxvisio: {self.format_message()}", file=file, err=file is None)


class WrongInput(Failure):
    """A setting, a data set or a run that is wrong, as one line on stderr; exit code 2."""

    exit_code = 2


class LazyCommands(click.Group):
    """A group that knows its commands by name and imports them when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the order a newcomer needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return a command; None where there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        with heap.loading():
            command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - a slip in the table above
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, _, told) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors raised on purpose become one line."""
        try:
            return super().invoke(ctx)
        except (InvalidSetting, DataRefused, TrainingRefused) as error:
            raise WrongInput(str(error)) from error
        except PoxVisioError as error:
            raise Failure(str(error)) from error
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _OF_TRAINING:
                raise
            raise WrongInput(f"this needs {error.name}: install the extra train (pip install '.[train]')") from error
        except KeyboardInterrupt:
            click.echo("poxvisio: interrupted", err=True)
            raise click.exceptions.Exit(130) from None


def version() -> str:
    """Return the version of the installed package; in a bare checkout the one its ``pyproject.toml`` says."""
    try:
        return importlib.metadata.version("poxvisio")
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return "unknown"
    return str(project["version"]) if project.get("name") == "poxvisio" else "unknown"


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"poxvisio {version()}")
        ctx.exit()


@click.group(
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("poxvisio classify photos/ --receipt receipt.json"),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Classify photographs of skin lesions (mpox or not) in bulk, and account for every one.

    Research use only: not a medical device.
    """


if __name__ == "__main__":
    main(prog_name="poxvisio")
