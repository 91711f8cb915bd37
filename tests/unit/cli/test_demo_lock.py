"""The services run with the packages of the demo's lock alone, though the tests have more."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
    "REDIS_URL": "redis://127.0.0.1:9/0",
    "SECRET_KEY": "a-secret-of-the-tests-32-characters-long",
}
# kombu imports its transports when they are used. TensorFlow is for GPUs and training.
ALSO = ("kombu.transport.redis", "standardwebhooks")
FOLDERS = ("cli", "shared", "web", "worker")

PROGRAM = """
import importlib, sys

absent, modules = set(sys.argv[1].split(",")), sys.argv[2].split(",")

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for module in modules:
    importlib.import_module(module)
"""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _absent() -> set[str]:
    """Return the top-level names that only packages outside of the demo's lock provide."""
    locked = {
        _normal(match[1])
        for match in re.finditer(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements/demo.txt").read_text(), re.MULTILINE)
    }
    return {
        name
        for name, owners in packages_distributions().items()
        if not any(_normal(owner) in locked or _normal(owner) == "poxvisio" for owner in owners)
    }


def _modules() -> list[str]:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def test_every_module_of_the_services_imports_with_the_packages_of_the_demo_alone(tmp_path: Path) -> None:
    absent = _absent()
    assert {"tensorflow", "pytest"} <= absent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(sorted(absent)), ",".join([*_modules(), *ALSO])],
        cwd=ROOT,
        env={**SETTINGS, "STORAGE_URL": (tmp_path / "photos").as_uri(), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
