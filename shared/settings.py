"""The one place that reads the environment: a frozen ``Settings`` that is passed to whoever needs it.

Secrets may come as files: ``NAME_FILE=/run/secrets/name`` stands for ``NAME``. A wrong or missing value ends the
process at start with one line that names it (``Settings.load`` raises ``InvalidSetting``).
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shared import crash_points
from shared.errors import InvalidSetting

_MEGABYTE = 1024 * 1024
_SECRET_LENGTH = 32


class Settings(BaseSettings):
    """All settings, with their environment variables as aliases.

    Sizes are bytes and durations seconds unless the name says otherwise. ``docs/settings.md`` is held against this
    class by a test.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL", description="PostgreSQL, as postgresql://user:password@host:port/name"
    )
    broker_url: SecretStr = Field(
        validation_alias=AliasChoices("BROKER_URL", "REDIS_URL"),
        description="The Celery broker; REDIS_URL, or any Celery broker URL in BROKER_URL",
    )
    storage_url: str = Field(
        validation_alias="STORAGE_URL", description="Where photos live: file:///dir or s3://bucket/prefix"
    )
    secret_key: SecretStr = Field(
        validation_alias="SECRET_KEY",
        description="At least 32 characters; receipts are signed and webhook secrets sealed with keys derived from it",
    )
    public_url: str = Field(
        default="http://127.0.0.1:8000",
        validation_alias="PUBLIC_URL",
        description="The address users reach the service at; links begin with it",
    )
    model: Path = Field(
        default=Path("models/demo"),
        validation_alias="MODEL",
        description="Folder of the bundle to serve while none of the register is live",
    )

    database_role: Literal["", "poxvisio_app", "poxvisio_worker", "poxvisio_reader", "poxvisio_owner"] = Field(
        default="",
        validation_alias="POXVISIO_DATABASE_ROLE",
        description="Role to take on after connecting; empty: each process takes its own",
    )
    database_pool: int = Field(
        default=8,
        ge=1,
        le=200,
        validation_alias="POXVISIO_DATABASE_POOL",
        description="Connections a process keeps at most",
    )
    s3_endpoint: str = Field(
        default="",
        validation_alias="POXVISIO_S3_ENDPOINT",
        description="Another S3 endpoint than Amazon's, for example MinIO's",
    )

    max_photo_bytes: int = Field(
        default=50 * _MEGABYTE,
        ge=1024,
        validation_alias="POXVISIO_MAX_PHOTO_BYTES",
        description="Largest photo; a larger one is rejected alone",
    )
    max_photo_pixels: int = Field(
        default=40_000_000,
        ge=10_000,
        validation_alias="POXVISIO_MAX_PHOTO_PIXELS",
        description="Most pixels of a photo; more are rejected alone",
    )
    max_photos: int = Field(
        default=50_000,
        ge=1,
        le=50_000,
        validation_alias="POXVISIO_MAX_PHOTOS",
        description="Most photos of one job; more are refused whole",
    )
    max_request_bytes: int = Field(
        default=10 * 1024 * _MEGABYTE,
        ge=_MEGABYTE,
        validation_alias="POXVISIO_MAX_REQUEST_BYTES",
        description="Largest request body; a larger one is refused with 413",
    )
    max_expanded_bytes: int = Field(
        default=20 * 1024 * _MEGABYTE,
        ge=_MEGABYTE,
        validation_alias="POXVISIO_MAX_EXPANDED_BYTES",
        description="Bytes of one archive's photos when expanded; entries beyond are rejected",
    )
    idempotency_lease: int = Field(
        default=30,
        ge=5,
        validation_alias="POXVISIO_IDEMPOTENCY_LEASE",
        description="Seconds after which a request that died may be taken over by its retry",
    )
    max_waiting_clients: int = Field(
        default=256,
        ge=0,
        validation_alias="POXVISIO_MAX_WAITING_CLIENTS",
        description="Long-polls a web process holds at once, half of them of one tenant; others are answered at once",
    )
    max_uploads: int = Field(
        default=8,
        ge=1,
        validation_alias="POXVISIO_MAX_UPLOADS",
        description="Bodies of jobs a web process takes in at once; further ones wait 5 s for a place, then get 503",
    )
    max_slow_uploads: int = Field(
        default=24,
        ge=0,
        validation_alias="POXVISIO_MAX_SLOW_UPLOADS",
        description="Bodies that come in slowly, held beside those by a thread each; one tenant has half of them",
    )
    max_streams: int = Field(
        default=16,
        ge=1,
        validation_alias="POXVISIO_MAX_STREAMS",
        description="Results a web process streams out at once, by a thread each; one tenant has half of them",
    )
    max_event_streams: int = Field(
        default=256,
        ge=0,
        validation_alias="POXVISIO_MAX_EVENT_STREAMS",
        description="Event streams (SSE) a web process holds at once, by a thread each; one tenant has half of them",
    )
    event_stream_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=86_400,
        validation_alias="POXVISIO_EVENT_STREAM_SECONDS",
        description="Seconds after which a stream of events ends; its client comes back and misses nothing",
    )
    max_webhooks: int = Field(
        default=50,
        ge=1,
        le=1000,
        validation_alias="POXVISIO_MAX_WEBHOOKS",
        description="Webhooks of a tenant; a further one is refused with 409; those of single jobs do not count",
    )
    event_days: int = Field(
        default=30,
        ge=29,
        le=36_500,
        validation_alias="POXVISIO_EVENT_DAYS",
        description="Days that events and their deliveries are kept; what is still to be delivered stays longer",
    )
    tenant_backlog_seconds: float = Field(
        default=8 * 3600.0,
        gt=0,
        validation_alias="POXVISIO_TENANT_BACKLOG_SECONDS",
        description="Longest a tenant's new job may have to wait for what is queued before it; beyond, 429",
    )
    backlog_seconds: float = Field(
        default=24 * 3600.0,
        gt=0,
        validation_alias="POXVISIO_BACKLOG_SECONDS",
        description="Longest all that waits in a job's lane and in more urgent ones may take; beyond, 503",
    )
    tenant_backlog_photos: int = Field(
        default=250_000,
        ge=1,
        validation_alias="POXVISIO_TENANT_BACKLOG_PHOTOS",
        description="Most photos before a tenant's new job while no worker says how fast it is; beyond, 429",
    )
    backlog_photos: int = Field(
        default=1_000_000,
        ge=1,
        validation_alias="POXVISIO_BACKLOG_PHOTOS",
        description="Most photos that may wait in all while no worker says how fast it is; beyond, 503",
    )

    key_rate: float = Field(
        default=100.0,
        ge=0,
        validation_alias="POXVISIO_KEY_RATE",
        description="Requests a second of one API key in the long run, and as many of its links; else 429; 0: no bound",
    )
    tenant_rate: float = Field(
        default=200.0,
        ge=0,
        validation_alias="POXVISIO_TENANT_RATE",
        description="The same for all keys of a tenant together",
    )
    rate_seconds: int = Field(
        default=5,
        ge=1,
        le=3600,
        validation_alias="POXVISIO_RATE_SECONDS",
        description="Seconds of those rates that may come at once",
    )
    refused_keys: int = Field(
        default=60,
        ge=0,
        validation_alias="POXVISIO_REFUSED_KEYS",
        description="Unknown API keys that an address may send a minute; beyond, 429 to it; 0: not bounded",
    )
    address_rate: float = Field(
        default=100.0,
        ge=0,
        validation_alias="POXVISIO_ADDRESS_RATE",
        description="Requests a second of one address to what needs no key, probes aside; beyond, 429; 0: not bounded",
    )
    proxies: int = Field(
        default=0,
        ge=0,
        le=8,
        validation_alias="POXVISIO_PROXIES",
        description="Proxies of yours before the web, each of which adds to X-Forwarded-For; 0: that is not believed",
    )

    lease_floor: float = Field(
        default=60.0, gt=0, validation_alias="POXVISIO_LEASE_FLOOR", description="Shortest lease of a unit, in seconds"
    )
    claim_seconds: float = Field(
        default=0.25,
        gt=0,
        validation_alias="POXVISIO_CLAIM_SECONDS",
        description="Work a claim should hold, in seconds at the measured rate",
    )
    micro_batch: int = Field(
        default=64,
        ge=1,
        le=256,
        validation_alias="POXVISIO_MICRO_BATCH",
        description="Photos that go through the network at once, at most; about 100 ms of work, and two a thread",
    )
    sweep_seconds: float = Field(
        default=1.0, gt=0, validation_alias="POXVISIO_SWEEP_SECONDS", description="Pause between two sweeps"
    )
    decoders: int = Field(
        default=0,
        ge=0,
        le=64,
        validation_alias="POXVISIO_DECODERS",
        description="Decoding children of a worker; 0: one per core that it has time for",
    )
    engine: Literal["auto", "openvino", "tensorflow", "torch"] = Field(
        default="auto",
        validation_alias="POXVISIO_ENGINE",
        description="openvino, tensorflow or torch; auto: TensorFlow, else PyTorch, on a GPU it sees, else OpenVINO",
    )
    precision: Literal["auto", "f32", "f16", "bf16", "int8"] = Field(
        default="auto",
        validation_alias="POXVISIO_PRECISION",
        description="f32, f16, bf16 or int8; auto: the fastest that the device has and the bundle was proved in",
    )
    engine_threads: int = Field(
        default=0,
        ge=0,
        validation_alias="POXVISIO_ENGINE_THREADS",
        description="Threads of the network; 0: one per core that it has time for",
    )
    cache_dir: Path = Field(
        default=Path.home() / ".cache" / "poxvisio",
        validation_alias="POXVISIO_CACHE_DIR",
        description="Where compiled engines are kept",
    )
    engines_kept: int = Field(
        default=3,
        ge=1,
        le=16,
        validation_alias="POXVISIO_ENGINES_KEPT",
        description="Networks a worker keeps loaded at most; those that serve all jobs are kept in any case",
    )
    heartbeat_seconds: float = Field(
        default=300.0,
        ge=0,
        validation_alias="POXVISIO_HEARTBEAT_SECONDS",
        description="Pause between rounds of photos with known answers, and the longest these may take; 0: none",
    )
    models_cached: int = Field(
        default=8,
        ge=1,
        validation_alias="POXVISIO_MODELS_CACHED",
        description="Models of which a node keeps files; those that serve or that jobs wait for stay in any case",
    )
    model_cache_bytes: int = Field(
        default=8 * 1024 * _MEGABYTE,
        ge=_MEGABYTE,
        validation_alias="POXVISIO_MODEL_CACHE_BYTES",
        description="Bytes of bundles and compiled engines that a node keeps, but for those that stay in any case",
    )
    max_model_bytes: int = Field(
        default=1024 * _MEGABYTE,
        ge=_MEGABYTE,
        validation_alias="POXVISIO_MAX_MODEL_BYTES",
        description="Largest bundle that may be published",
    )
    copy_side: int = Field(
        default=1024,
        ge=512,
        le=1024,
        validation_alias="POXVISIO_COPY_SIDE",
        description="Longer side of a working copy, in pixels; below 1,008 a 12-megapixel photo costs one more resize",
    )

    webhook_loopback: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        validation_alias="POXVISIO_WEBHOOK_LOOPBACK",
        description="host:port pairs on loopback that webhooks may reach, separated by commas; for tests and demos",
    )
    fetch_timeout: float = Field(
        default=60.0,
        gt=0,
        le=600,
        validation_alias="POXVISIO_FETCH_TIMEOUT",
        description="Seconds that fetching one photo from its address may take in all, each time it is tried",
    )
    webhook_timeout: float = Field(
        default=15.0,
        gt=0,
        le=60,
        validation_alias="POXVISIO_WEBHOOK_TIMEOUT",
        description="Seconds one webhook attempt may take in all",
    )
    webhook_schedule: Annotated[tuple[float, ...], NoDecode] = Field(
        default=(5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400),
        validation_alias="POXVISIO_WEBHOOK_SCHEDULE",
        description="Seconds before each further attempt of a webhook, separated by commas",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        validation_alias="POXVISIO_METRICS_HOST",
        description="Address that metrics are served at, to whoever reaches it: loopback, or a network of your own",
    )
    metrics_port: int = Field(
        default=9464,
        ge=1,
        le=65535,
        validation_alias="POXVISIO_METRICS_PORT",
        description="Port that metrics are served at; `poxvisio up` takes another one where it is taken, and says so",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", validation_alias="POXVISIO_LOG_LEVEL", description="What is logged"
    )
    restart_seconds: float = Field(
        default=30.0,
        gt=0,
        validation_alias="POXVISIO_RESTART_SECONDS",
        description="Longest pause before `poxvisio up` starts again what died; it doubles from 0.5 s",
    )
    test_mode: bool = Field(
        default=False,
        validation_alias="POXVISIO_TEST_MODE",
        description="1 allows what only tests may ask for; never set it where photos matter",
    )
    crash_point: str = Field(
        default="",
        validation_alias="POXVISIO_CRASH_POINT",
        description="For tests: where a process kills itself (docs/chaos.md); refused without POXVISIO_TEST_MODE",
    )

    @field_validator("webhook_loopback", mode="before")
    @classmethod
    def _split_pairs(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("webhook_schedule", mode="before")
    @classmethod
    def _split_seconds(cls, value: object) -> object:
        return tuple(float(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("crash_point")
    @classmethod
    def _for_tests_alone(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("test_mode"):
            raise ValueError("kills processes, so it needs POXVISIO_TEST_MODE=1 beside it")
        crash_points.check(value)
        return value

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < _SECRET_LENGTH:
            raise ValueError(f"must have at least {_SECRET_LENGTH} characters")
        return value

    @field_validator("storage_url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if not value.startswith(("file:///", "s3://")):
            raise ValueError("must begin with file:/// or s3://")
        return value

    @field_validator("public_url")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from ``load`` alone, so that a mapping can stand in for the whole environment."""
        return (init_settings,)

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings from the environment, or from the mapping given instead.

        Raises ``InvalidSetting`` with one line that names the first wrong or missing variable.
        """
        known = _with_files(os.environ if environment is None else environment)
        try:
            return cls(**{name: value for name, value in known.items() if name in _VARIABLES and value != ""})  # type: ignore[arg-type]  # text is parsed by the fields
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            why = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
            raise InvalidSetting(f"{name} {why}") from None


def inherited(without: Collection[str] = ()) -> dict[str, str]:
    """Return the environment for a process to be started, without the variables named nor their ``_FILE`` forms."""
    dropped = {*without, *(f"{name}_FILE" for name in without)}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _with_files(environment: Mapping[str, str]) -> dict[str, str]:
    known = dict(environment)
    for name, path in environment.items():
        if path and name.endswith("_FILE") and name.removesuffix("_FILE") in _VARIABLES:
            try:
                known[name.removesuffix("_FILE")] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InvalidSetting(f"{name} names a file that cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise InvalidSetting(f"{name} names a file that is no text") from None
    return known


def _aliases(alias: object) -> list[str]:
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]


_VARIABLES = frozenset(name for field in Settings.model_fields.values() for name in _aliases(field.validation_alias))
