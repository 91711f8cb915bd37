"""Settings: one line that names what is wrong, and secrets from files."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import InvalidSetting
from shared.settings import Settings

NEEDED = {
    "DATABASE_URL": "postgresql://web:p@127.0.0.1:5432/poxvisio",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "STORAGE_URL": "file:///photos",
    "SECRET_KEY": "0123456789abcdef0123456789abcdef",
}


def complaint(environment: dict[str, str]) -> str:
    with pytest.raises(InvalidSetting) as refused:
        Settings.load(environment)
    said = str(refused.value)
    assert "\n" not in said
    assert NEEDED["SECRET_KEY"] not in said
    return said


def test_the_needed_variables_are_enough() -> None:
    settings = Settings.load(NEEDED)
    assert settings.database_url.get_secret_value() == NEEDED["DATABASE_URL"]
    assert settings.broker_url.get_secret_value() == NEEDED["REDIS_URL"]
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.max_photos == 50_000


@pytest.mark.parametrize("name", ["DATABASE_URL", "STORAGE_URL", "SECRET_KEY"])
def test_a_missing_variable_is_named(name: str) -> None:
    assert complaint({key: value for key, value in NEEDED.items() if key != name}) == f"{name} is missing"


def test_a_missing_broker_is_named() -> None:
    assert complaint({key: value for key, value in NEEDED.items() if key != "REDIS_URL"}) == "BROKER_URL is missing"


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_an_empty_value_is_a_missing_one(name: str) -> None:
    assert complaint(NEEDED | {name: ""}).endswith("is missing")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SECRET_KEY", "short", "must have at least 32 characters"),
        ("STORAGE_URL", "/photos", "must begin with"),
        ("STORAGE_URL", "ftp://host/photos", "must begin with"),
        ("PUBLIC_URL", "example.org", "must begin with http:// or https://"),
        ("POXVISIO_DATABASE_ROLE", "postgres", "poxvisio_app"),
        ("POXVISIO_DATABASE_POOL", "many", "integer"),
        ("POXVISIO_DATABASE_POOL", "0", "greater than or equal to 1"),
        ("POXVISIO_MAX_PHOTOS", "50001", "less than or equal to 50000"),
        ("POXVISIO_MAX_PHOTOS", "1.5", "integer"),
        ("POXVISIO_LEASE_FLOOR", "0", "greater than 0"),
        ("POXVISIO_LEASE_FLOOR", "nan", "greater than 0"),
        ("POXVISIO_SWEEP_SECONDS", "-1", "greater than 0"),
        ("POXVISIO_ENGINE", "tflite", "openvino"),
        ("POXVISIO_WEBHOOK_SCHEDULE", "5,soon", "soon"),
        ("POXVISIO_LOG_LEVEL", "loud", "warning"),
    ],
)
def test_a_wrong_value_is_named_with_its_reason(name: str, value: str, why: str) -> None:
    said = complaint(NEEDED | {name: value})
    assert said.startswith(f"{name} ")
    assert why in said


def test_an_empty_value_means_the_default() -> None:
    environment = NEEDED | {"PUBLIC_URL": "", "POXVISIO_MAX_PHOTOS": "", "POXVISIO_WEBHOOK_SCHEDULE": "", "MODEL": ""}
    assert Settings.load(environment) == Settings.load(NEEDED)


def test_the_broker_may_be_any_of_celerys() -> None:
    settings = Settings.load(NEEDED | {"BROKER_URL": "amqp://guest@127.0.0.1//"})
    assert settings.broker_url.get_secret_value() == "amqp://guest@127.0.0.1//"


def test_lists_are_split_at_commas() -> None:
    environment = {"POXVISIO_WEBHOOK_SCHEDULE": "0.5, 2,", "POXVISIO_WEBHOOK_LOOPBACK": "127.0.0.1:8010, [::1]:9"}
    settings = Settings.load(NEEDED | environment)
    assert settings.webhook_schedule == (0.5, 2.0)
    assert settings.webhook_loopback == ("127.0.0.1:8010", "[::1]:9")


def test_links_never_get_two_slashes() -> None:
    assert Settings.load(NEEDED | {"PUBLIC_URL": "https://pox.example/"}).public_url == "https://pox.example"


def test_a_secret_may_come_as_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("a-secret-from-a-file-of-32-characters\n", encoding="utf-8")
    without = {key: value for key, value in NEEDED.items() if key != "SECRET_KEY"}
    settings = Settings.load(without | {"SECRET_KEY_FILE": str(secret)})
    assert settings.secret_key.get_secret_value() == "a-secret-from-a-file-of-32-characters"


def test_an_empty_name_of_a_file_is_none(tmp_path: Path) -> None:
    assert Settings.load(NEEDED | {"SECRET_KEY_FILE": "", "DATABASE_URL_FILE": ""}) == Settings.load(NEEDED)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = complaint(NEEDED | {"SECRET_KEY_FILE": str(tmp_path / "none")})
    assert missing == "SECRET_KEY_FILE names a file that cannot be read: No such file or directory"
    assert complaint(NEEDED | {"SECRET_KEY_FILE": str(tmp_path)}).startswith("SECRET_KEY_FILE ")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert complaint(NEEDED | {"SECRET_KEY_FILE": str(binary)}).startswith("SECRET_KEY_FILE ")


def test_an_empty_file_is_a_missing_value(tmp_path: Path) -> None:
    empty = tmp_path / "key"
    empty.touch()
    assert complaint(NEEDED | {"SECRET_KEY_FILE": str(empty)}) == "SECRET_KEY is missing"


def test_variables_of_others_are_left_alone() -> None:
    assert Settings.load(NEEDED | {"PATH": "/bin", "LESS_FILE": "/none", "max_photos": "1"}) == Settings.load(NEEDED)


def test_the_environment_is_read_where_no_mapping_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in NEEDED or name.startswith("POXVISIO_") or name in ("BROKER_URL", "PUBLIC_URL", "MODEL"):
            monkeypatch.delenv(name)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == Settings.load(NEEDED)


def test_settings_do_not_change_and_do_not_show_their_secrets() -> None:
    settings = Settings.load(NEEDED)
    with pytest.raises(ValidationError):
        settings.max_photos = 1
    assert NEEDED["SECRET_KEY"] not in repr(settings)
    assert NEEDED["DATABASE_URL"] not in repr(settings)
