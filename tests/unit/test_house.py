"""Rules of the house that no single module can keep alone: who imports what, and what things are called."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shared.broker import DRAIN
from shared.ledger.fairness import WEIGHTS
from shared.vocabulary import LANES
from tests.conftest import LOADED_BY_READING, LONGEST

ROOT = Path(__file__).resolve().parents[2]
#: What people write, and merge.
_TEXTS = {".py", ".md", ".toml", ".js", ".css", ".html"}
PACKAGES = ("cli", "shared", "training", "web", "worker", "migrations")
ENGINES = ("tensorflow", "keras", "torch", "openvino")
SETTINGS = {
    "DATABASE_URL": "postgresql://worker:p@127.0.0.1:1/poxvisio",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "STORAGE_URL": "file:///nowhere",
    "SECRET_KEY": "a-secret-of-the-tests-32-characters-long",
}


def fresh(program: str) -> list[str]:
    """Run a program in an interpreter of its own, with settings but without services; return the lines it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POXVISIO_")} | SETTINGS
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def loaded_by(statement: str, *names: str) -> list[str]:
    program = f"{statement}\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    return fresh(program)


def test_the_parent_of_the_pool_started_as_celery_does_loads_no_engine_and_has_the_one_task() -> None:
    start = (
        "from worker.app import app\napp.loader.import_default_modules()\napp.finalize()\n"
        "print(*[name for name in app.tasks if not name.startswith('celery.')])"
    )
    assert loaded_by(start, *ENGINES, "worker.tasks") == [DRAIN, "worker.tasks"]


def test_the_web_loads_neither_the_worker_nor_an_engine_nor_a_reader_of_pictures() -> None:
    dear = ("celery.worker", "boto3", "pyarrow", "numpy", "PIL", "alembic")
    ours = ("worker", "training", "cli", "web.intake.submission")
    assert loaded_by("import web.app", *ENGINES, *dear, *ours) == ["web.intake.submission"]


def test_the_sweep_the_deliverer_and_metrics_load_no_engine() -> None:
    assert loaded_by("import worker.upkeep, worker.delivery, worker.metrics", *ENGINES, "worker.upkeep") == [
        "worker.upkeep"
    ]


def test_lanes_are_the_same_everywhere() -> None:
    assert tuple(WEIGHTS) == LANES
    procfile = (ROOT / "Procfile").read_text(encoding="utf-8")
    [worker] = [line for line in procfile.splitlines() if line.startswith("worker:")]
    assert worker.split(" -Q ")[1].split()[0].split(",") == list(LANES)


def test_reading_the_tests_loads_nothing_that_takes_seconds(pytestconfig: pytest.Config) -> None:
    """Every process of tests reads all of them, and a few of them want these: they are imported where they are used."""
    dear = {"tensorflow", "keras", "torch", "sklearn", "scipy", "matplotlib", "schemathesis", "moto", "boto3"}
    assert pytestconfig.stash[LOADED_BY_READING] & dear == set()


def test_the_longest_test_files_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def modules() -> list[Path]:
    return sorted(
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts
    )


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    named = {path: path.parent.name if path.stem == "__init__" else path.stem for path in modules()}
    clashes = [str(path.relative_to(ROOT)) for path, name in named.items() if name in sys.stdlib_module_names]
    assert clashes == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
    assert [str(path.relative_to(ROOT)) for path in modules() if path.stem in empty] == []


@pytest.mark.parametrize("package", ["cli", "shared", "training", "web", "worker"])
def test_the_distribution_has_every_package(package: str) -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in (ROOT / package).rglob("*.py")}
    assert found == {name for name in listed if name.split(".")[0] == package}


def test_no_file_holds_the_marks_of_a_merge() -> None:
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    folders = (*PACKAGES, "tests", "benchmarks", "docs")
    texts = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in _TEXTS]
    marked = [
        str(path.relative_to(ROOT))
        for path in [*texts, *ROOT.glob("*.md"), *ROOT.glob("*.toml")]
        if any(line.startswith(marks) for line in path.read_text(encoding="utf-8").splitlines())
    ]
    assert marked == []


def test_every_module_says_what_it_owns() -> None:
    silent = [path for path in modules() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert [str(path.relative_to(ROOT)) for path in silent] == []
