"""The options of a job, from its ``job`` part or from the query, as one checked thing."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, Json

from shared.event_body import Detail, Format
from web.asking import PLAIN, Strict, StrictJson

_RFC_3339: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:]{8}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


def _written_out(value: object) -> object:
    """Let through what RFC 3339 calls a time; pydantic alone would take any number for seconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC_3339.fullmatch(value)):
        return value
    raise ValueError("must be a time with its zone, as RFC 3339 has it: 2027-01-31T12:00:00Z")


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar") from None


# A moment in UTC; whether it may lie in the past is for its reader to say.
Instant = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written_out), AfterValidator(_in_utc)]
CustomId = Annotated[str, Field(min_length=1, max_length=200), PLAIN]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64), PLAIN]
MetadataValue = Annotated[str, Field(max_length=512), PLAIN]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=50)]
ModelId = Annotated[str, Field(min_length=1, max_length=200), PLAIN]
WebhookUrl = Annotated[str, Field(min_length=1, max_length=2048), PLAIN]
Priority = Literal["interactive", "normal", "bulk"]
WebhookDetail = Annotated[
    Detail,
    Field(
        description="`thin`: ids, counts and links. `full`: also the answers of a closed job, as many as 20 kB hold; "
        "needs the scope `jobs:read` too"
    ),
]
WebhookFormat = Annotated[Format, Field(description="The body: that of Standard Webhooks, or a CloudEvent 1.0")]


class PhotoOption(StrictJson):
    """What is said about one photo, matched by order."""

    file_name: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Checked against the name of the photo in the same place"
    )
    custom_id: CustomId | None = Field(default=None, description="Your own id of the photo, unique in the job")


class OneOffWebhook(StrictJson):
    """A URL that hears of this job alone."""

    url: WebhookUrl
    secret: Annotated[str, Field(max_length=200), PLAIN] | None = Field(
        default=None, description="`whsec_` and 24 to 64 bytes in base64; without one, one is made and shown once"
    )
    detail: WebhookDetail = "thin"
    format: WebhookFormat = "standard"


class Choices(StrictJson):
    """What can be asked for a job, however its photos come."""

    priority: Priority | None = Field(
        default=None, description="Default: interactive for one photo, normal up to 100, bulk above"
    )
    deadline: Instant | None = Field(default=None, description="Photos not started by then are `expired` (RFC 3339)")
    max_failure_rate: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Stop when rejected + failed over finished exceeds this, from 50 photos on"
    )
    model: ModelId | None = Field(default=None, description="Id of a served model")
    metadata: Metadata = Field(default_factory=dict, description="Up to 50 texts of your own, given back as they are")
    webhook: OneOffWebhook | None = None


class JobOptions(Choices):
    """The ``job`` part of a multipart request."""

    photos: list[PhotoOption] = Field(default_factory=list, max_length=50_000)

    def canonical(self) -> dict[str, Any]:
        """Return the options as plain JSON values, the same for the same meaning."""
        plain: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        return plain


class ListedPhoto(StrictJson):
    """One photo of a list: its bytes, or where it is."""

    content: str | None = Field(default=None, description="The photo in base64", json_schema_extra={"format": "byte"})
    url: WebhookUrl | None = Field(
        default=None, description="An https address that answers with the photo; redirects are not followed"
    )
    upload_id: str | None = Field(default=None, description="Not offered yet")
    file_name: Annotated[str, Field(max_length=1024)] | None = None
    custom_id: CustomId | None = Field(default=None, description="Your own id of the photo, unique in the job")


class JobList(Choices):
    """A job as one JSON document."""

    images: Annotated[list[ListedPhoto], Field(min_length=1, max_length=50_000)]

    def job_options(self) -> JobOptions:
        """Return the same options as a ``job`` part would give them."""
        said = {name: getattr(self, name) for name in Choices.model_fields}
        return JobOptions(**said, photos=[PhotoOption(custom_id=image.custom_id) for image in self.images])


class QueryOptions(Strict):
    """The options in the query of a request whose body is one photo or an archive."""

    priority: Priority | None = None
    deadline: Instant | None = None
    max_failure_rate: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    model: ModelId | None = None
    metadata: Json[Metadata] | None = Field(default=None, description="A JSON object of texts")
    webhook: WebhookUrl | None = Field(default=None, description="One-off URL; its secret is made and shown once")
    custom_id: CustomId | None = Field(default=None, description="Only where one photo comes")
    file_name: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Only for a raw body, a photo or an archive; multipart names each part"
    )

    def job_options(self) -> JobOptions:
        """Return the same options as a ``job`` part would give them."""
        photo = {"custom_id": self.custom_id} if self.custom_id is not None else None
        return JobOptions(
            priority=self.priority,
            deadline=self.deadline,
            max_failure_rate=self.max_failure_rate,
            model=self.model,
            metadata=self.metadata or {},
            webhook=OneOffWebhook(url=self.webhook, secret=None) if self.webhook is not None else None,
            photos=[PhotoOption(file_name=None, **photo)] if photo else [],
        )
