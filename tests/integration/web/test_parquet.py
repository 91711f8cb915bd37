"""Results as a Parquet file: what NDJSON and CSV say, read by pandas, whole or not at all."""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet as reading

from cli.main import main
from shared.database import Database, new_id
from shared.errors import DatabaseAway
from shared.views import ResultView
from tests.integration.web.answering import ANSWER, EVIDENCE, answer_all
from tests.integration.web.conftest import Caller, Server
from web.api import parquet, results

COUNT = 70


@pytest.fixture
def job(clinic: Caller, worker_db: Database) -> dict[str, Any]:
    made = clinic.send([(f"=1+{n}.jpg", b"%d" % (n % 5)) for n in range(COUNT)], {"photos": [{"custom_id": "@p"}]}).json
    assert made is not None
    answer_all(worker_db, ("classified", "abstained", "rejected", "failed"))
    return dict(made)


def fetched(clinic: Caller, job: dict[str, Any]) -> bytes:
    answer = clinic.get(f"/v1/jobs/{job['id']}/results", Accept=parquet.MEDIA_TYPE)
    assert (answer.status_code, answer.mimetype) == (200, parquet.MEDIA_TYPE)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}.parquet"'
    return bytes(answer.data)


def test_pandas_reads_what_json_says(clinic: Caller, job: dict[str, Any]) -> None:
    table = pd.read_parquet(io.BytesIO(fetched(clinic, job)))
    page = clinic.get(f"/v1/jobs/{job['id']}/results").json
    assert page is not None
    said = page["results"]
    same = ("ordinal", "image", "job", "custom_id", "file_name", "sha256", "bytes", "outcome", "label", "attempts")
    for name in (*same, "duplicate_of", "photo_url", "heatmap_url", "use"):
        assert [None if pd.isna(value) else value for value in table[name]] == [row[name] for row in said], name
    first, rejected = table.iloc[0], table.iloc[2]
    assert (first["file_name"], first["custom_id"]) == ("=1+0.jpg", "@p")  # no spreadsheet: texts stay as they were
    assert (first["probability"], dict(first["probabilities"])) == (0.93, {"mpox": 0.93, "other": 0.07})
    assert (list(first["evidence"]), list(first["prediction_set"])) == (EVIDENCE, ["mpox"])
    assert (first["blur"], first["size"], first["in_distribution"], first["model_id"]) == (120.5, 900, True, "demo")
    assert str(first["finished_at"].tzinfo) == "UTC"
    assert list(rejected["reasons"]) == ["damaged"]
    assert (pd.isna(rejected["probability"]), rejected["evidence"], len(rejected["probabilities"])) == (True, None, 0)


def test_it_has_every_column_of_the_csv_and_says_research_only(clinic: Caller, job: dict[str, Any]) -> None:
    file = reading.ParquetFile(io.BytesIO(fetched(clinic, job)))
    assert tuple(file.schema_arrow.names)[: len(results._COLUMNS)] == results._COLUMNS
    notes = file.schema_arrow.metadata
    assert (notes[b"poxvisio.use"], notes[b"poxvisio.schema"]) == (b"research-only", b"1")


def test_an_empty_list_has_the_same_columns(clinic: Caller) -> None:
    made = clinic.send([("a.jpg", b"a")]).json
    assert made is not None
    rest = clinic.get(f"/v1/jobs/{made['id']}/results").json
    assert rest is not None
    answer = clinic.get(f"/v1/jobs/{made['id']}/results?format=parquet&cursor={rest['next']}")
    assert reading.read_table(io.BytesIO(answer.data)).schema == parquet.schema()


def views(count: int) -> Iterator[ResultView]:
    for ordinal in range(count):
        yield ResultView(
            image_id=new_id(),
            job_id=new_id(),
            ordinal=ordinal,
            client_name=f"{ordinal}.jpg",
            custom_id=None,
            storage_key="key",
            sha256="ab" * 32,
            bytes=1,
            duplicate_of=None,
            outcome="classified",
            label="mpox",
            answer=ANSWER,
            reasons=(),
            model_id="demo",
            model_digest="ab" * 32,
            attempts=1,
            has_copy=True,
            timings=None,
            finished_at=None,
        )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP", 100)


@pytest.mark.usefixtures("small")
def test_memory_holds_one_group_however_many_rows_there_are() -> None:
    taken = 0

    def counted() -> Iterator[ResultView]:
        nonlocal taken
        for row in views(3 * parquet._GROUP):
            taken += 1
            yield row

    pieces = parquet.pieces(counted(), "http://x")
    first = next(pieces)
    assert taken == parquet._GROUP
    whole = first + b"".join(pieces)
    assert reading.ParquetFile(io.BytesIO(whole)).metadata.num_row_groups == 3
    assert len(first) < len(whole) / 2


@pytest.mark.usefixtures("small")
def test_a_file_that_was_cut_off_cannot_be_opened() -> None:
    def broken() -> Iterable[ResultView]:
        yield from views(parquet._GROUP + 1)
        raise DatabaseAway("gone")

    cut = b"".join(parquet.pieces(broken(), "http://x"))
    assert cut
    with pytest.raises(pa.ArrowInvalid, match="magic bytes"):
        reading.read_table(io.BytesIO(cut))


def test_the_command_line_saves_it_from_a_running_service(server: Server, worker_db: Database, tmp_path: Path) -> None:
    url, file = f"http://127.0.0.1:{server.port}", tmp_path / "results.parquet"
    status, _, sent = server.ask("POST", "/v1/jobs", b"photo", Content_Type="image/jpeg")
    assert status == 202
    answer_all(worker_db)
    words = ["jobs", "results", json.loads(sent)["id"], "--url", url, "--key", server.key]
    ended = CliRunner().invoke(main, [*words, "--parquet", str(file)])
    assert ended.exit_code == 0, ended.output
    assert pd.read_parquet(file)["outcome"].to_list() == ["classified"]
    assert CliRunner().invoke(main, [*words, "--parquet", str(file), "--csv"]).exit_code == 2
