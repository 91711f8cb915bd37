import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RIGHT = {
    "DATABASE_URL": "postgresql://worker:p@127.0.0.1:1/poxvisio",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "STORAGE_URL": "file:///nowhere",
    "SECRET_KEY": "a-secret-of-the-tests-32-characters-long",
}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"POXVISIO_DECODERS": "many"}, "POXVISIO_DECODERS "), ({"SECRET_KEY": ""}, "SECRET_KEY is missing")],
)
def test_a_wrong_setting_ends_the_worker_with_one_line_that_names_it(wrong: dict[str, str], told: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POXVISIO_")}
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "--pool", "prefork", "-c", "1"],
        cwd=ROOT,
        env=kept | RIGHT | wrong,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"poxvisio worker: {told}")
    assert ended.stderr.count("\n") == 1
