import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli.main import main

ROOT = Path(__file__).parents[3]
GATE = "http://127.0.0.1:9"  # the discard port: nobody listens


def _paths(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from _paths(found, (*path, name))


@pytest.mark.parametrize("path", list(_paths(main)), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*path, "--help"])
    assert shown.exit_code == 0
    if path:
        assert "Example" in shown.output
        assert f"poxvisio {path[0]}" in shown.output


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["--help"], ("flask", "sqlalchemy", "celery", "httpx", "rich", "openvino")),
        (["classify", "--help"], ("flask", "sqlalchemy", "celery", "openvino", "web.app")),
        (["jobs", "--help"], ("flask", "sqlalchemy", "celery", "openvino", "web.app")),
        (["verify", "--help"], ("flask", "sqlalchemy", "celery", "openvino", "web.app")),
    ],
)
def test_a_command_loads_no_server_it_does_not_need(arguments: list[str], loaded: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom cli.main import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        f"print('loaded:', [name for name in {loaded!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["classify"],
        ["classify", "/no/such/folder"],
        ["jobs", "show"],
        ["jobs", "--url", "ftp://x"],
        ["verify"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_a_service_out_of_reach_ends_with_3_and_one_line() -> None:
    ended = CliRunner().invoke(main, ["jobs", "list", "--url", GATE, "--key", f"pxv_{'0' * 32}_{'0' * 48}"])
    assert ended.exit_code == 3
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"poxvisio: {GATE} is out of reach")
    assert ended.stdout == ""


def _isolated(program: str) -> str:
    """Run a program in a checkout that is not installed."""
    block = (
        "import importlib.metadata as metadata\n"
        "def version(name):\n    raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", block + program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.strip()


def test_the_version_is_told_where_the_package_is_not_installed(tmp_path: Path) -> None:
    said = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    ask = "main.main(['--version'], standalone_mode=False)"
    assert _isolated(f"from cli import main\n{ask}") == f"poxvisio {said}"
    elsewhere = f"from pathlib import Path\nfrom cli import main\nmain.ROOT = Path({str(tmp_path)!r})\n{ask}"
    assert _isolated(elsewhere) == "poxvisio unknown"


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_wrong_setting_is_told_before_anything_starts(command: str, tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path / "data")] if command == "up" else []
    ended = CliRunner().invoke(main, [command, *options], env={"POXVISIO_DECODERS": "many"})
    assert ended.exit_code == 2
    assert ended.stderr.startswith("poxvisio: POXVISIO_DECODERS ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_verify_is_called_offline_only_with_the_keys_at_hand() -> None:
    shown = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert "offline, given the public keys as a file" in shown


def test_a_command_that_lacks_the_extra_train_says_so_in_one_line() -> None:
    without = "import sys; sys.modules['pandas'] = None; from cli.main import main; main(['data', 'check', 'photos'])"
    done = subprocess.run([sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "poxvisio: this needs pandas: install the extra train (pip install '.[train]')\n"
