"""Shapes of requests and answers."""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StringConstraints
from typing_extensions import TypeAliasType

from chassis.http.fields import PLAIN, Moment, Whole
from chassis.http.models import RowView, Strict
from chassis.ids import PLATFORM_TENANT
from chassis.security.principals import Principal
from services.integration.consumers.audit import AUDITED_EVENTS, RESOURCE_TYPES
from services.integration.consumers.events import PUBLIC_EVENTS
from services.integration.domain.guards import GUARDS

_GUARDED = ", ".join(f"`{scope}` for `dotmac.{domain}.*`" for domain, scope in sorted(GUARDS.items()))
_URL = r"^https?://[A-Za-z0-9._~:/?@!$&'()*+,;=%\[\]-]+$"


def _one_of(names: Collection[str], otherwise: str) -> AfterValidator:
    def known(name: str) -> str:
        if name not in names:
            raise ValueError(otherwise)
        return name

    return AfterValidator(known)


EventType = TypeAliasType(
    "EventType",
    Annotated[
        str,
        _one_of(PUBLIC_EVENTS, "not a type of event that other systems are told of"),
        Field(
            description="A type of event; each is described at /docs/events.",
            json_schema_extra={"enum": list(PUBLIC_EVENTS)},
            examples=["dotmac.billing.InvoiceIssued"],
        ),
    ],
)
EventTypes = Annotated[
    list[EventType],
    Field(
        max_length=100,
        description="The types to be sent; none means all, and those to come. They take the scopes to read what they"
        f" are about: {_GUARDED}.",
    ),
]
Url = Annotated[
    str,
    StringConstraints(max_length=2000, pattern=_URL),
    Field(description="Where to send events: https, and a public address.", examples=["https://hooks.acme.example/x"]),
]
Description = Annotated[str, Field(max_length=500, pattern=PLAIN, description="What it is for.")]


class EndpointData(Strict):
    """Where to send which events."""

    url: Url
    event_types: EventTypes = Field(default_factory=list)
    description: Description | None = None
    enabled: StrictBool = True


class EndpointChange(Strict):
    """The fields to change; null clears the description."""

    url: Url = Field(default_factory=str)
    event_types: EventTypes = Field(default_factory=list)
    description: Description | None = None
    enabled: StrictBool = Field(default_factory=bool)


class EndpointView(RowView):
    """A webhook endpoint."""

    KEY = "endpoint_id"

    id: UUID
    url: str
    event_types: list[str]
    description: str | None
    enabled: bool
    disabled_reason: str | None = Field(description="Why the platform disabled it.")
    version: int
    created_at: datetime
    updated_at: datetime


class EndpointWithSecret(EndpointView):
    """A webhook endpoint with the secret that signs what it is sent, which is told this once."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwbF9CqSnPPCM="])

    @classmethod
    def with_secret(cls, row: Any, secret: str) -> "EndpointWithSecret":
        return cls(secret=secret, **dict(EndpointView.of(row)))


class Rotation(Strict):
    """For how long the old secret signs as well."""

    overlap_hours: Whole = Field(24, ge=0, le=168)


class Span(Strict):
    """The events that were recorded from one moment on, or of all that are kept, until before another, or now."""

    since: Moment | None = None
    until: Moment | None = None


class Replayed(BaseModel):
    """How many deliveries were queued."""

    deliveries: int


class DeliveryView(RowView):
    """An event on its way to an endpoint."""

    KEY = "delivery_id"

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    replay: bool = Field(description="Whether it was asked for again.")
    status: str = Field(description="pending, succeeded or failed")
    attempts: int
    created_at: datetime
    finished_at: datetime | None


class AttemptView(BaseModel):
    """An attempt to deliver."""

    number: int
    started_at: datetime
    milliseconds: int
    status: int | None = Field(description="What the endpoint answered.")
    error: str | None = Field(description="Why it failed.")
    response: str | None = Field(description="The beginning of the endpoint's answer.")


class DeliveryDetail(DeliveryView):
    """An event on its way to an endpoint, with the attempts and with what is sent."""

    log: list[AttemptView]
    event: dict[str, Any] | None = Field(
        description=f"The CloudEvent that is sent. Null without the scope to read what it is about: {_GUARDED}."
    )


AuditAction = TypeAliasType(
    "AuditAction",
    Annotated[
        str,
        _one_of(AUDITED_EVENTS, "not a type of event"),
        Field(
            description="What was done: a type of event.",
            json_schema_extra={"enum": list(AUDITED_EVENTS)},
            examples=["dotmac.customer.CustomerUpdated"],
        ),
    ],
)


AuditResourceType = TypeAliasType(
    "AuditResourceType",
    Annotated[
        str,
        _one_of(RESOURCE_TYPES, "not a type of what can be changed"),
        Field(
            description="What kind of thing was changed.",
            json_schema_extra={"enum": RESOURCE_TYPES},
            examples=["customer.customer"],
        ),
    ],
)

_PLATFORMS = ("tenant.", "provisioning.")


class AuditEntryView(RowView):
    """A change: who made it, from where, and what is different since."""

    KEY = "entry_id"

    id: UUID = Field(description="The id of its event.")
    tenant_id: UUID
    occurred_at: datetime
    action: str = Field(description="The type of its event.", examples=["dotmac.customer.CustomerUpdated"])
    resource_type: str = Field(description="What kind of thing was changed.", examples=["customer.customer"])
    resource_id: str
    version: int = Field(description="Of what was changed, since this change.")
    actor: str | None = Field(description="Who did it, by id; nobody where the platform did it by itself.")
    actor_kind: str | None = Field(
        description="`user`, `platform` (a user of the platform's own), `api-key` of the user, `service-account`,"
        " `anonymous` or `system`; none if it is not known.",
        examples=["user"],
    )
    client_address: str | None = Field(description="From which IP address.")
    before: dict[str, Any] | None = Field(
        description="The fields that changed as they were; none of what is new, or where it is not shown."
    )
    after: dict[str, Any] | None = Field(
        description="The fields that changed as they are; none of what is gone, or where it is not shown."
    )
    trace_id: str | None

    @classmethod
    def seen_by(cls, who: Principal, row: Any) -> "AuditEntryView":
        """Show an entry to somebody. Of a tenant's business the platform learns what was done, and not the data."""
        view = cls.of(row)
        elsewhere = view.tenant_id != who.tenant_id and who.tenant_id == PLATFORM_TENANT
        if elsewhere and not view.resource_type.startswith(_PLATFORMS):
            return view.model_copy(update={"before": None, "after": None})
        return view
