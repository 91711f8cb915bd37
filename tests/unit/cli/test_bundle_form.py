"""A bundle's multipart body, read back by Flask's own parser."""

import hashlib
import io
import json
from pathlib import Path

import pytest
from werkzeug.formparser import parse_form_data

from cli.bundle_form import BundleForm
from shared.bundle import CARD, LARGEST_REPORT, REPORT, SEALED, Bundle
from shared.errors import Refused

CONTENTS = {name: name.encode() * 3000 + b"\r\n--not the boundary\r\n" for name in (CARD, *SEALED)}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    for name, data in CONTENTS.items():
        (tmp_path / name).write_bytes(data)
    return Bundle(tmp_path, "second", "d", ("a", "b"), clinical=False, synthetic=True, card={}, calibration={})


def test_what_is_sent_is_what_was_announced_and_reads_back_as_the_files(bundle: Bundle) -> None:
    form = BundleForm(bundle)
    body = b"".join(form)
    assert form.headers["Content-Length"] == str(len(body))
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": form.headers["Content-Type"],
        "CONTENT_LENGTH": form.headers["Content-Length"],
        "wsgi.input": io.BytesIO(body),
    }
    _, fields, files = parse_form_data(environ)
    assert list(fields) == []
    assert {file.filename for file in files.values()} == set(CONTENTS)
    for name, file in files.items():
        with file.stream:
            assert file.read() == CONTENTS[name]


def test_it_is_the_same_again_for_a_retry_and_tells_how_far_it_is(bundle: Bundle) -> None:
    told: list[int] = []
    form = BundleForm(bundle, told.append)
    first = hashlib.sha256(b"".join(form)).hexdigest()
    assert told == sorted(told)
    assert told[-1] == form.size == sum(map(len, CONTENTS.values()))
    told.clear()
    assert hashlib.sha256(b"".join(form)).hexdigest() == first
    assert told[-1] == form.size


def test_two_forms_never_share_a_boundary(bundle: Bundle) -> None:
    kinds = {BundleForm(bundle).headers["Content-Type"] for _ in range(50)}
    assert len(kinds) == 50
    assert json.dumps(sorted(kinds)).isascii()


def test_a_report_that_no_service_takes_is_refused_before_anything_is_sent(bundle: Bundle) -> None:
    report = bundle.file(REPORT)
    report.parent.mkdir()
    with report.open("wb") as file:
        file.truncate(LARGEST_REPORT)
    assert BundleForm(bundle).size == sum(map(len, CONTENTS.values())) + LARGEST_REPORT
    with report.open("ab") as file:
        file.write(b"!")
    with pytest.raises(Refused, match=r"report\.html has 16,777,217 bytes, and a report may have 16,777,216: nothing"):
        BundleForm(bundle)
