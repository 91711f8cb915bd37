"""The deployment files, held against the code and against the real tools; each tool must also see a planted error."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices

from cli import programs
from shared.settings import Settings
from shared.vocabulary import LANES

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
OURS = ("migrate", "web", "worker", "worker-gpu", "deliverer", "sweep", "metrics", "admin")
# Read by other programs than ours, or by `poxvisio migrate`.
S3 = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION")
OTHERS = {"POXVISIO_WEB_PASSWORD", "POXVISIO_WORKER_PASSWORD", "POXVISIO_READER_PASSWORD", *S3}


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    foreign = ("COMPOSE_", "POXVISIO_", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= more or {}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def compose(file: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    profiles = ("--profile", "gpu", "--profile", "admin")
    return run(tool("docker-compose"), "--file", str(file), *profiles, "config", *arguments, more=more)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    shown = compose(COMPOSE, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)["services"]
    return found


@pytest.fixture(scope="module")
def procfile() -> dict[str, str]:
    return dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


def expected(command: tuple[str, ...], **words: str) -> list[str]:
    return [word.format(**words) for word in command]


def in_shell(line: str) -> list[str]:
    """The words of a Procfile's line without its settings, with defaults filled in."""
    filled = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", line).replace("worker-$$", "worker")
    return [word for word in shlex.split(filled) if not re.match(r"[A-Z_]+=", word)]


def test_compose_accepts_the_file_with_every_profile() -> None:
    checked = compose(COMPOSE, "--quiet")
    assert checked.returncode == 0, checked.stderr
    assert not checked.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),  # an unknown key
        ("    db: {condition: service_healthy}", "    dp: {condition: service_healthy}"),  # an undefined dependency
        ("condition: service_completed_successfully", "condition: service_completed"),  # a misspelt condition
        ("secrets: [postgres_password]", "secrets: [postgres_pasword]"),  # a secret nobody defines
        ("[gpu]\n    image", "gpu\n    image"),  # a profile that is no list
    ],
)
def test_compose_refuses_a_planted_error(tmp_path: Path, right: str, wrong: str) -> None:
    text = COMPOSE.read_text()
    assert right in text
    planted = tmp_path / "docker-compose.yml"
    planted.write_text(text.replace(right, wrong))
    assert compose(planted, "--quiet").returncode != 0


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    checked = run(tool("hadolint"), "deploy/Dockerfile")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("python:3.11-slim AS build", "python:latest AS build"),
        ("RUN python -m venv /opt/venv", "RUN apt-get install curl"),
        ("WORKDIR /srv/poxvisio\nUSER", "WORKDIR srv\nUSER"),
    ],
)
def test_hadolint_finds_a_planted_error(tmp_path: Path, right: str, wrong: str) -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert right in text
    planted = tmp_path / "Dockerfile"
    planted.write_text(text.replace(right, wrong))
    assert run(tool("hadolint"), str(planted)).returncode != 0


def test_honcho_finds_every_process_in_the_procfile(procfile: dict[str, str]) -> None:
    checked = run(tool("honcho"), "check", "--procfile", "Procfile")
    assert checked.returncode == 0, checked.stderr
    assert "(release, web, worker, deliverer, sweep, metrics)" in checked.stdout + checked.stderr
    assert list(procfile) == ["release", *programs.KINDS]


@pytest.mark.parametrize(("right", "wrong"), [("sweep: ", "web: "), ("sweep: ", "sweep ")])
def test_honcho_sees_a_planted_error(tmp_path: Path, right: str, wrong: str) -> None:
    planted = tmp_path / "Procfile"
    planted.write_text((ROOT / "Procfile").read_text().replace(right, wrong))
    checked = run(tool("honcho"), "check", "--procfile", str(planted))
    assert checked.returncode != 0 or "sweep" not in checked.stderr  # a line that is no process is passed over


def test_the_procfile_starts_what_the_supervisor_starts(procfile: dict[str, str]) -> None:
    assert in_shell(procfile["web"]) == expected(programs.WEB, host="127.0.0.1", port="8000")
    assert in_shell(procfile["worker"]) == expected(programs.WORKER, name="worker")
    assert in_shell(procfile["deliverer"]) == ["python", "-m", *programs.DELIVERER]
    assert in_shell(procfile["sweep"]) == ["python", "-m", *programs.SWEEP]
    assert in_shell(procfile["metrics"]) == ["python", "-m", *programs.METRICS]
    assert procfile["release"] == "poxvisio migrate"


def test_compose_starts_what_the_supervisor_starts(services: dict[str, Any]) -> None:
    assert services["web"]["command"] == expected(programs.WEB, host="0.0.0.0", port="8000")
    for worker in ("worker", "worker-gpu"):
        assert services[worker]["command"] == expected(programs.WORKER, name="worker")
    assert services["deliverer"]["command"] == ["python", "-m", *programs.DELIVERER]
    assert services["sweep"]["command"] == ["python", "-m", *programs.SWEEP]
    assert services["metrics"]["command"] == ["python", "-m", *programs.METRICS]


def test_every_worker_listens_to_every_lane(services: dict[str, Any], procfile: dict[str, str]) -> None:
    commands = [in_shell(procfile["worker"]), services["worker"]["command"], services["worker-gpu"]["command"]]
    for command in commands:
        assert command[command.index("-Q") + 1].split(",") == list(LANES)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_do_as_little_as_possible(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["user"] == "10001:10001"
    assert service["tmpfs"]


def test_no_container_is_root_or_may_become_it(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["user"].startswith("0"), name


def test_secrets_come_as_files_that_the_service_may_read(services: dict[str, Any]) -> None:
    for name, service in services.items():
        granted = {secret["source"] for secret in service.get("secrets", [])}
        files = {value for key, value in service.get("environment", {}).items() if key.endswith("_FILE")}
        assert files <= {f"/run/secrets/{secret}" for secret in granted}, name
        given = [key for key, value in service.get("environment", {}).items() if value is not None]
        assert not [key for key in given if re.search(r"(PASSWORD|KEY|DATABASE_URL)$", key)], name


def test_every_setting_in_compose_is_one_we_read(services: dict[str, Any]) -> None:
    known = set(OTHERS)
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        known |= {str(each) for each in alias.choices} if isinstance(alias, AliasChoices) else {str(alias)}
    for name in OURS:
        assert {key.removesuffix("_FILE") for key in services[name]["environment"]} <= known, name


@pytest.mark.parametrize("name", ["web", "worker", "worker-gpu", "deliverer", "sweep"])
def test_s3_is_reached_with_the_operator_s_own_credentials(services: dict[str, Any], name: str) -> None:
    without = services[name]["environment"]
    assert {key: without[key] for key in S3} == dict.fromkeys(S3)
    read = Settings.load(
        {**without, "DATABASE_URL": "postgresql://d", "BROKER_URL": "redis://b", "SECRET_KEY": "k" * 32}
        | dict.fromkeys(key for key in without if key.endswith("_FILE"))
    )
    assert read.s3_endpoint == ""
    given = {key: key.lower() for key in S3} | {"POXVISIO_S3_ENDPOINT": "https://minio.example"}
    shown = compose(COMPOSE, "--format", "json", **given)
    passed = json.loads(shown.stdout)["services"][name]["environment"]
    assert {key: passed[key] for key in given} == given


def test_grace_outlasts_the_patience_of_the_supervisor(services: dict[str, Any]) -> None:
    for kind, patience in programs.PATIENCE.items():
        assert int(services[kind]["stop_grace_period"].removesuffix("s")) > patience, kind


def test_what_can_be_asked_is_asked_for_its_health(services: dict[str, Any]) -> None:
    assert all("healthcheck" in services[name] for name in ("db", "valkey", "web", "worker", "worker-gpu"))


def test_the_gpu_worker_stands_behind_its_profile(services: dict[str, Any]) -> None:
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    [device] = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    without = run(tool("docker-compose"), "--file", str(COMPOSE), "config", "--services")
    assert "worker-gpu" not in without.stdout.split()


def test_the_databases_cannot_reach_out_nor_be_reached(services: dict[str, Any]) -> None:
    for name in ("db", "valkey"):
        assert list(services[name]["networks"]) == ["inside"]
        assert "ports" not in services[name]
    assert [port["host_ip"] for port in services["web"]["ports"]] == ["127.0.0.1"]


def test_metrics_are_reached_from_inside_alone_with_no_secret_but_the_reader_s(services: dict[str, Any]) -> None:
    assert list(services["metrics"]["networks"]) == ["inside"]
    assert "ports" not in services["metrics"]
    assert [secret["source"] for secret in services["metrics"]["secrets"]] == ["reader_url"]


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = str(ROOT / "deploy/make-secrets.sh")
    assert run("sh", script, str(folder)).returncode == 0
    first = {file.name: file.read_text() for file in folder.iterdir()}
    assert run("sh", script, str(folder)).returncode == 0
    assert {file.name: file.read_text() for file in folder.iterdir()} == first
    assert (
        first["web_url"].strip() == f"postgresql://poxvisio_web_login:{first['web_password'].strip()}@db:5432/poxvisio"
    )
    assert first["broker_url"].strip() == f"redis://:{first['valkey_password'].strip()}@valkey:6379/0"
    assert len(first["secret_key"].strip()) >= 32
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert set(first) == set(re.findall(r"file: deploy/secrets/(\w+)", COMPOSE.read_text()))


def test_locks_of_the_images_agree_with_the_lock_of_the_demo() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    demo = pins("demo.txt")
    for lock in ("server.txt", "gpu.txt"):
        shared = pins(lock).keys() & demo.keys()
        assert {"flask", "celery", "sqlalchemy", "openvino"} <= shared
        assert {name: pins(lock)[name] for name in shared} == {name: demo[name] for name in shared}
