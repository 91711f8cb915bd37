"""The processes of the Procfile, one by one as a platform starts them, with photos in S3."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cli.embedded.ports import free_port
from tests.chaos.running import until
from tests.chaos.samples import SAMPLES
from tests.e2e.conftest import COMMAND, ROOT, environment

SECONDS = 120


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> str:
    """Return the endpoint of an S3 server with the bucket ``clinic``."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import boto3  # this test alone wants it in its own process

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="clinic")
    return s3_server


def test_a_job_is_answered_by_the_processes_of_the_procfile(
    owner_url: str, broker_url: str, bucket: str, tmp_path: Path
) -> None:
    port, metrics_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    variables = environment(
        DATABASE_URL=owner_url,
        REDIS_URL=broker_url,
        STORAGE_URL="s3://clinic/photos",
        POXVISIO_S3_ENDPOINT=bucket,
        SECRET_KEY="a-secret-of-the-tests-32-characters-long",
        PUBLIC_URL=url,
        PORT=str(port),
        POXVISIO_METRICS_PORT=str(metrics_port),
        MODEL=str(ROOT / "models" / "demo"),
        POXVISIO_CACHE_DIR=str(tmp_path / "cache"),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )

    def run(*words: str) -> str:
        done = subprocess.run(
            [*COMMAND, *words], env=variables, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("migrate")
    run("admin", "tenant", "create", "clinic by procfile")
    made = run("admin", "key", "create", "--tenant", "clinic by procfile", "--name", "test", "--scopes",
               "jobs:read,jobs:write", "--json")  # fmt: skip
    headers = {"Authorization": f"Bearer {json.loads(made)['key']}"}
    log = (tmp_path / "honcho.log").open("wb")
    honcho = subprocess.Popen(
        [sys.executable, "-m", "honcho", "start", "web", "worker", "deliverer", "sweep", "metrics"],
        env=variables, cwd=ROOT, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            until(lambda: is_ready(client), "the processes are ready", SECONDS)
            files = [("photos", (f"{place}.jpg", data)) for place, data in enumerate(SAMPLES[:4])]
            job = client.post("/v1/jobs", files=files).raise_for_status().json()
            until(lambda: bool(client.get(f"/v1/jobs/{job['id']}").json()["closed_at"]), "the job closes", SECONDS)
            results = client.get(f"/v1/jobs/{job['id']}/results").json()["results"]
            assert len(results) == 4
            told = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").raise_for_status().text
            assert "poxvisio_database_up 1.0" in told
            answered = next(result for result in results if result["photo_url"])
            assert client.get(answered["photo_url"]).content[:2] == b"\xff\xd8"
    except AssertionError:
        print((tmp_path / "honcho.log").read_text()[-4000:])
        raise
    finally:
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(60)
        log.close()


def is_ready(client: httpx.Client) -> bool:
    try:
        answer = client.get("/readyz")
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and answer.json()["workers"] > 0
