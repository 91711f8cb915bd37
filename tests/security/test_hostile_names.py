"""What a file is called is data: it leads nowhere, is no formula, no markup and no header, and no log names it."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from shared import verification
from shared.names import LONGEST
from tests.integration.web.conftest import Caller
from tests.integration.worker.conftest import Receive, Worker, photo
from tests.security.forms import TYPE, form

HOSTILE = (
    "../../../../etc/cron.d/canary",
    "..\\..\\windows\\canary.jpg",
    "/etc/canary",
    "C:\\canary.jpg",
    "canary\x00.jpg",
    "canary\u202egpj.exe",
    "canary\u2066\u2069\u200b.jpg",
    "canary\x1b[31m.jpg",
    '=cmd|"/c calc"!A1-canary',
    "+canary",
    "-canary()",
    "@canary",
    " =canary",
    "\uff1dcanary",
    "<script>canary()</script>.jpg",
    "'\"><img src=x onerror=canary()>",
    "{{canary}}{%canary%}${canary}",
    "%0d%0aSet-Cookie:canary=1",
    "canary;filename=other.jpg",
    "canary" * 1700 + ".jpg",
    "canary\U0001f9ea\u0301 grösse.jpg",
    "CON.canary",
    "",
    ".",
    "..",
)
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r]")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


def json_of(answer: Any) -> Any:
    assert answer.status_code < 300, answer.text
    return answer.json


def test_names_of_photos_are_shown_and_nothing_else(
    clinic: Caller, make_worker: Worker, storage_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = json_of(clinic.post("/v1/jobs", data=form((name, photo(1, 64)) for name in HOSTILE), content_type=TYPE))
    make_worker().drain()
    check(clinic, job["id"], len(HOSTILE), storage_root)
    assert "canary" not in "".join(capfd.readouterr())


def test_names_in_an_archive_are_shown_and_nothing_else(
    clinic: Caller,
    make_receiver: Receive,
    make_worker: Worker,
    storage_root: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, name in enumerate(HOSTILE):
            archive.writestr(f"{name[:9000]}{number}.jpg", photo(1, 64))
    job = json_of(clinic.post("/v1/jobs", data=packed.getvalue(), content_type="application/zip"))
    receiver = make_receiver()
    while receiver.work_once():
        pass
    make_worker().drain()
    check(clinic, job["id"], len(HOSTILE), storage_root)
    assert "canary" not in "".join(capfd.readouterr())


@pytest.fixture
def storage_root(tmp_path: Path) -> Path:
    """Return the folder that holds the storage; what is written beside it was written by a name."""
    return tmp_path


def check(clinic: Caller, job: str, total: int, root: Path) -> None:
    """Hold every place where a name comes out against what it may be there."""
    path = f"/v1/jobs/{job}/results"
    shown = json_of(clinic.get(f"{path}?limit=1000"))["results"]
    assert len(shown) == total
    for row in shown:
        name = row["file_name"]
        assert name is None or (0 < len(name) <= LONGEST and not CONTROL.search(name)), name
    lines = [json.loads(line) for line in clinic.get(f"{path}?format=ndjson").text.splitlines()]
    assert [line["file_name"] for line in lines] == [row["file_name"] for row in shown]
    _, *cells = csv.reader(io.StringIO(clinic.get(f"{path}?format=csv").text))
    assert len(cells) == total
    assert not [cell for row in cells for cell in row if FORMULA.match(cell)]
    receipt = json_of(clinic.get(f"/v1/jobs/{job}/receipt"))
    assert verification.verify(receipt, json_of(clinic.get("/.well-known/poxvisio-keys.json"))).ok
    for row in shown:
        for form_of_it in (f"/v1/images/{row['image']}", f"/v1/images/{row['image']}/photo"):
            answer = clinic.get(form_of_it)
            assert "canary" not in str(answer.headers)
            assert "Set-Cookie" not in answer.headers
            disposition = answer.headers.get("Content-Disposition", f'inline; filename="{row["image"]}.jpg"')
            assert disposition == f'inline; filename="{row["image"]}.jpg"'
    # Neither in the storage nor beside it is there anything called by these names.
    assert not [path for path in root.rglob("*") if "canary" in str(path.relative_to(root))]
    assert not Path("/etc/canary").exists()
    assert not Path("/etc/cron.d/canary").exists()


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: canary=1", "a\nX-Canary: 1", "a\r\n\r\n<html>canary"])
def test_a_name_with_a_line_break_ends_no_header(clinic: Caller, make_worker: Worker, name: str) -> None:
    """In a form the break begins a header of the part, which says nothing here; in a query it is part of the name."""
    sent = clinic.post("/v1/jobs", data=form([(name, photo(1, 64))]), content_type=TYPE)
    assert sent.status_code in (202, 400, 422)
    assert "Set-Cookie" not in sent.headers
    assert "X-Canary" not in sent.headers
    sent = clinic.post(f"/v1/jobs?file_name={name.encode('unicode_escape').decode()}", data=photo(2, 64),
                       content_type="image/jpeg")  # fmt: skip
    assert sent.status_code == 202


def test_the_pages_write_text_and_no_markup() -> None:
    """The scripts put names into the page as text; the page's policy runs no script but these (ASVS 3.2.2, 3.4.3)."""
    web = Path(__file__).parents[2] / "web"
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|javascript:"
    )
    scripts = list((web / "static").glob("*.js"))
    assert scripts
    for file in (*scripts, *(web / "templates").glob("*.html")):
        found = sinks.findall(file.read_text(encoding="utf-8"))
        assert not found, (file.name, found)
    for file in (web / "templates").glob("*.html"):
        assert "|safe" not in file.read_text(encoding="utf-8").replace(" ", "")
