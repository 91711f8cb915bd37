"""``docs/settings.md`` says of every setting what the code says, and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic.fields import FieldInfo

from cli.main import main
from shared.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def _names(field: FieldInfo) -> str:
    alias = field.validation_alias
    choices = getattr(alias, "choices", None) or [alias]
    return ", ".join(f"`{choice}`" for choice in choices)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    default = field.default
    if isinstance(default, Path):
        default = str(default).replace(str(Path.home()), "~")
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return f"`{default}`" if default != "" else "empty"


def _rows() -> list[str]:
    return re.findall(r"^\| (`.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from _commands(found)


def test_every_setting_is_on_the_page_with_its_default_and_its_meaning() -> None:
    rows = _rows()
    for field in Settings.model_fields.values():
        assert f"{_names(field)} | {_default(field)} | {field.description}" in rows


def test_every_variable_of_a_command_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for command in _commands(main):
        for option in command.params:
            if isinstance(option.envvar, str):
                assert f"`{option.envvar}`" in page


def test_the_page_names_no_variable_that_does_not_exist() -> None:
    named = {name for row in _rows() for name in re.findall(r"`([A-Z0-9_]+)`", row.split(" | ")[0])}
    settings = {name for field in Settings.model_fields.values() for name in re.findall(r"`(\w+)`", _names(field))}
    options = {option.envvar for command in _commands(main) for option in command.params}
    assert named <= settings | options
