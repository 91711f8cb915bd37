"""``poxvisio models``: what it asks the service for, and what it says of the answer."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from cli import models as commands
from cli.bundle_form import BundleForm
from cli.main import main
from shared.bundle import RESEARCH_USE, load_bundle
from tests.unit.cli.test_shadow_page import REPORT

KEY = f"pxv_{'0' * 32}_{'0' * 48}"
SECOND = {
    "id": "second", "digest": "d" * 64, "live": False, "canary_share": 0.25, "shadow_share": 0.0, "state": "ready",
    "problem": None,
}  # fmt: skip
DEMO = Path(__file__).parents[3] / "models" / "demo"


@dataclass
class Register:
    """A service with a register, and what it was asked."""

    url: str = ""
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    models: list[list[dict[str, Any]]] = field(default_factory=lambda: [[SECOND]])
    changes: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes, str]:
        """Answer as the service does."""
        self.asked.append((method, path, json.loads(body) if body.startswith(b"{") else len(body)))
        if path == "/v1/models":
            said: Any = {"models": self.models.pop(0) if len(self.models) > 1 else self.models[0]}
            return (201 if method == "POST" else 200), json.dumps(said).encode(), "application/json"
        if path.endswith("/report"):
            return 200, b"<h1>SYNTHETIC</h1>", "text/html"
        if path.endswith("/photo"):
            return 200, b"\xff\xd8 photo", "image/jpeg"
        if path.endswith("/shadow") and method == "GET":
            return 200, json.dumps(REPORT).encode(), "application/json"
        said = self.changes.pop(0)
        return (202 if method == "POST" else 200), json.dumps(said).encode(), "application/json"


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    monkeypatch.setattr(commands, "_LOOK_SECONDS", 0.0)
    found = Register()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said, kind = found.answer(self.command, urlsplit(self.path).path, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = _answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as above
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def run(register: Register, *words: str) -> Result:
    return CliRunner().invoke(main, ["models", *words, "--url", register.url, "--key", KEY])


def test_a_list_says_what_role_each_model_has(register: Register) -> None:
    live = SECOND | {"id": "first", "live": True, "canary_share": 0.0}
    shadow = SECOND | {"id": "third", "canary_share": 0.0, "shadow_share": 0.1}
    register.models = [[live, SECOND, shadow, SECOND | {"id": "bad", "canary_share": 0.0, "problem": "no good"}]]
    ended = run(register, "list")
    assert ended.exit_code == 0, ended.output
    words = [line.split() for line in ended.output.splitlines()]
    assert [line[2:-1] for line in words[:3]] == [["live"], ["canary", "0.25"], ["shadow", "0.1"]]
    assert words[3][-2:] == ["no", "good"]
    assert json.loads(run(register, "list", "--json").output) == register.models[0]
    assert json.loads(run(register, "show", "second", "--json").output)["id"] == "second"


def test_a_model_that_there_is_not_is_no_traceback(register: Register) -> None:
    ended = run(register, "show", "none")
    assert (ended.exit_code, "there is no model 'none'" in ended.output) == (3, True)


@pytest.mark.parametrize(
    ("words", "kind", "body"),
    [
        (["activate", "second"], "activate", {}),
        (["rollback", "second"], "rollback", {}),
        (["canary", "second", "--share", "0.1"], "canary", {"share": 0.1}),
        (["shadow", "second", "--share", "0.5"], "shadow", {"share": 0.5}),
        (["shadow", "second", "--share", "1"], "shadow", {"share": 1.0}),
    ],
)
def test_a_change_is_asked_for_and_waited_for(
    register: Register, words: list[str], kind: str, body: dict[str, float]
) -> None:
    waiting = {"id": "chg_1", "state": "waiting", "reason": None}
    register.changes = [waiting, waiting, waiting | {"state": "applied"}]
    ended = run(register, *words)
    assert (ended.exit_code, ended.output.strip()) == (0, f"{kind} second: applied")
    assert register.asked[0] == ("POST", f"/v1/models/second/{kind}", body)
    assert [asked[1] for asked in register.asked[1:]] == ["/v1/models/changes/chg_1"] * 2


def test_a_refused_change_ends_with_three_and_the_reason(register: Register) -> None:
    register.changes = [{"id": "chg_1", "state": "refused", "reason": "the model is live already"}]
    ended = run(register, "activate", "second")
    assert (ended.exit_code, "the model is live already" in ended.output) == (3, True)


@pytest.mark.parametrize("share", ["0", "-1", "101", "nan", "inf", "a tenth"])
def test_what_is_no_share_is_refused_before_anything_is_asked(register: Register, share: str) -> None:
    ended = run(register, "shadow", "second", f"--share={share}")
    assert (ended.exit_code, register.asked) == (2, [])


def test_a_bundle_is_verified_sent_whole_and_its_check_waited_for(register: Register) -> None:
    checking = SECOND | {"id": "demo-synthetic", "state": "checking"}
    register.models = [[checking], [checking], [checking | {"state": "ready"}]]
    ended = run(register, "publish", str(DEMO))
    assert ended.exit_code == 0, ended.output
    method, path, size = register.asked[0]
    assert (method, path) == ("POST", "/v1/models")
    assert size > sum(file.stat().st_size for file in DEMO.glob("*.safetensors"))
    assert len(register.asked) == 3


def test_a_bundle_that_failed_its_check_ends_with_three(register: Register) -> None:
    register.models = [[SECOND | {"id": "demo-synthetic", "state": "refused", "problem": "it answers otherwise"}]]
    ended = run(register, "publish", str(DEMO))
    assert (ended.exit_code, "it answers otherwise" in ended.output) == (3, True)


def test_an_altered_bundle_is_not_sent(register: Register, tmp_path: Path) -> None:
    ended = run(register, "publish", str(tmp_path))
    assert ended.exit_code != 0
    assert register.asked == []


def test_a_shadows_report_is_lines_a_page_and_json(register: Register, tmp_path: Path) -> None:
    out = tmp_path / "shadow.html"
    ended = run(register, "shadow-report", "second", "--out", str(out), "--photos", "1")
    assert ended.exit_code == 0, ended.output
    assert "38 of 40" in ended.output
    assert "not enough data" in ended.output
    said = out.read_text(encoding="utf-8")
    assert RESEARCH_USE in said
    assert said.count("data:image/jpeg;base64,") == 1
    assert [path for _, path, _ in register.asked].count("/v1/images/img_1/photo") == 1
    assert json.loads(run(register, "shadow-report", "second", "--json").output) == REPORT


def test_the_report_that_came_with_a_model_is_written_to_a_file(register: Register, tmp_path: Path) -> None:
    run(register, "show", "second", "--report", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_bytes() == b"<h1>SYNTHETIC</h1>"
    assert register.asked[-1][:2] == ("GET", "/v1/models/second/report")


@pytest.mark.parametrize("asked", [("show", "second", "--report"), ("shadow-report", "second", "--out")])
def test_a_file_that_cannot_be_written_is_told_in_one_line(
    asked: tuple[str, ...], register: Register, tmp_path: Path
) -> None:
    done = run(register, *asked, str(tmp_path / "absent" / "page.html"))
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert "page.html cannot be written" in done.stderr


def test_a_bundle_is_sent_with_its_report_where_it_has_one(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("photos", "report"))
    without = b"".join(BundleForm(load_bundle(folder)))
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_bytes(b"<h1>SYNTHETIC</h1>")
    form = BundleForm(load_bundle(folder))
    body = b"".join(form)
    assert b'name="report.html"; filename="report.html"' in body
    assert b"<h1>SYNTHETIC</h1>" in body
    assert len(body) == int(form.headers["Content-Length"])
    assert b"report.html" not in without
