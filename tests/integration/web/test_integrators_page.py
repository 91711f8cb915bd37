"""The programs of ``docs/integrators.md`` are run as they stand there."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from shared.database import Database
from shared.signing import new_secret, webhook_headers
from tests.integration.web.answering import answer_all
from tests.integration.web.conftest import Server

PAGE = Path(__file__).parents[3] / "docs" / "integrators.md"


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_ten_lines_send_a_folder_and_print_every_answer(server: Server, worker_db: Database, tmp_path: Path) -> None:
    client, _ = programs()
    assert len([line for line in client.splitlines() if line]) <= 12
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(b"%d" % number)
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.1):
            answer_all(worker_db)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        environment = {
            "POXVISIO_URL": f"http://127.0.0.1:{server.port}",
            "POXVISIO_KEY": server.key,
            "PHOTOS": str(folder),
        }
        done = subprocess.run(
            [sys.executable, "-c", client], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
    finally:
        over.set()
        worker.join()
    rows = [json.loads(line) for line in done.stdout.splitlines() if line]
    assert [(row["file_name"], row["outcome"]) for row in rows] == [(f"{n}.jpg", "classified") for n in range(3)]


def test_what_is_signed_is_genuine_and_nothing_else() -> None:
    space: dict[str, Any] = {}
    exec(programs()[1], space)
    is_genuine, secret, body = space["is_genuine"], new_secret(), b'{"test": 2432232314}'
    headers = webhook_headers([new_secret(), secret], "msg_1", 1_614_265_330, body)
    assert is_genuine(headers, body, secret, now=1_614_265_400)
    assert not is_genuine(headers, body + b" ", secret, now=1_614_265_400)
    assert not is_genuine(headers, body, new_secret(), now=1_614_265_400)
    assert not is_genuine(headers, body, secret, now=1_614_265_331 + 300)
    assert not is_genuine({**headers, "webhook-id": "msg_2"}, body, secret, now=1_614_265_400)
