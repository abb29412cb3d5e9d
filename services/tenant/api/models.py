"""Shapes of requests and answers."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, StrictBool

from chassis.http.fields import PLAIN, Country, Currency, Email, ShortText, Text, TimeZone, Whole, only_a_number
from chassis.http.models import RowView, Strict
from services.tenant.domain.plans import PlanCode
from services.tenant.domain.settings import PAYMENT_TERMS, SETTINGS
from services.tenant.domain.templates import MOST_PLANS, PLAN_CODE_PATTERN, PREFIX_PATTERN, PRICE
from services.tenant.domain.tenant import Operation, Target
from services.tenant.domain.values import Kind, Number
from services.tenant.use_cases.change_settings import Kept
from services.tenant.use_cases.invite import Invitation

Slug = Annotated[str, Field(min_length=3, max_length=40, pattern="^[a-z][a-z0-9-]{1,38}[a-z0-9]$", examples=["acme"])]
Description = Annotated[str, Field(max_length=500, pattern=PLAIN)]


class TenantRegistration(Strict):
    name: Text
    slug: Slug
    contact_email: Email
    plan: PlanCode
    currency: Currency
    country: Country
    time_zone: TimeZone


class TenantChange(Strict):
    name: Text | None = None
    contact_email: Email | None = None
    plan: PlanCode | None = None
    country: Country | None = None
    time_zone: TimeZone | None = None


class TenantView(RowView):
    """An ISP on the platform."""

    KEY = "tenant_id"

    id: UUID
    name: str
    slug: str
    contact_email: str
    plan: str
    currency: str
    country: str
    time_zone: str
    status: str = Field(
        description="registered, deploying, active, suspended, maintenance, deprovisioning, deprovisioned or failed"
    )
    deployment_id: UUID | None
    version: int
    created_at: datetime
    updated_at: datetime


class PlanView(BaseModel):
    """A plan that a tenant can be on; of what is null, it allows as much as one likes."""

    code: PlanCode
    customers: int | None = Field(description="Active customers at most.")
    users: int | None = Field(description="Users at most.")
    api_calls_a_minute: int | None = Field(description="Requests of all its users together, at most.")


class Plans(BaseModel):
    """The platform's plans."""

    items: list[PlanView]


class DeploymentOrder(Strict):
    tenant_id: UUID


class StarterPlanData(Strict):
    """A plan that an ISP has to begin with."""

    code: Annotated[str, Field(pattern=PLAN_CODE_PATTERN, min_length=1, max_length=40, examples=["FIBER"])]
    name: Text
    price_minor: Whole = Field(
        ge=PRICE.minimum, le=PRICE.maximum, description="A month, in minor units of the tenant's currency."
    )


class TemplateParameters(Strict):
    """Parameters of a deployment. What a template does not name it does not have, and what an order does not stays."""

    payment_terms_days: Whole = Field(
        default_factory=int,
        ge=PAYMENT_TERMS.minimum,
        le=PAYMENT_TERMS.maximum,
        description="Becomes the tenant's setting: days from an invoice's issue to the day it is due.",
    )
    invoice_prefix: str = Field(
        default_factory=str,
        min_length=1,
        max_length=10,
        pattern=PREFIX_PATTERN,
        description="What the numbers of its invoices begin with.",
        examples=["ACME"],
    )
    starter_plans: list[StarterPlanData] = Field(
        default_factory=list, max_length=MOST_PLANS, description="The plans that it has to begin with."
    )

    def given(self) -> dict[str, Any]:
        """Return those that are named."""
        return self.model_dump(exclude_unset=True)


class TemplateData(Strict):
    """A template of deployments: what tenants are deployed by it get, and what of it an order may say otherwise."""

    name: ShortText
    description: Description | None = None
    target: Target = Target.POOLED
    plan: PlanCode | None = Field(default=None, description="The plan that they get; null leaves them theirs.")
    parameters: TemplateParameters = Field(default_factory=TemplateParameters)


class TemplateChange(Strict):
    """The fields to change; parameters are changed as a whole, and null clears description and plan."""

    name: ShortText = Field(default_factory=str)
    description: Description | None = None
    target: Target = Field(default_factory=lambda: Target.POOLED)
    plan: PlanCode | None = None
    parameters: TemplateParameters = Field(default_factory=TemplateParameters)


class TemplateView(RowView):
    """A template of deployments."""

    KEY = "template_id"

    id: UUID
    name: str
    description: str | None
    target: str
    plan: str | None
    parameters: dict[str, Any] = Field(description="By name, what an order may say otherwise.")
    version: int
    created_at: datetime
    updated_at: datetime


class PreviewData(Strict):
    """What an order would say otherwise."""

    parameters: TemplateParameters = Field(default_factory=TemplateParameters)


class DeploymentPreview(BaseModel):
    """What an order by a template would have deployed."""

    target: str
    plan: str | None
    parameters: dict[str, Any]


class OperationOrder(Strict):
    """What is to be done with a tenant; by default it is deployed."""

    operation: Operation = Operation.DEPLOY
    target: Target | None = Field(
        default=None,
        description="Where to deploy it, by default `pooled`; `process` gives it databases and processes of its own,"
        " `container` a database server, a network and containers. Or where to move it. All other operations"
        " are done where it is.",
    )
    reason: Text | None = Field(default=None, description="Why; the tenant is told.")
    grace_seconds: Annotated[int, Field(ge=0, le=366 * 24 * 3600), BeforeValidator(only_a_number)] | None = Field(
        default=None, description="How long to wait before it takes effect: not at all, but 30 days to deprovision."
    )
    release: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = Field(
        default=None, description="To which release to upgrade; without it, to the newest that there is at its target."
    )
    instances: Annotated[int, Field(ge=1, le=8), BeforeValidator(only_a_number)] | None = Field(
        default=None, description="To how many instances of each service to scale."
    )
    template_id: UUID | None = Field(
        default=None, description="The template to deploy by, which says where to, and which plan the tenant gets."
    )
    parameters: TemplateParameters | None = Field(
        default=None, description="What is to be otherwise than the template says, of what it has parameters for."
    )


class TransitionView(BaseModel):
    """A change of a tenant's status."""

    version: int = Field(description="The tenant's version that it made.")
    from_status: str | None = Field(description="Null for the first one.")
    to_status: str
    deployment_id: UUID | None = Field(description="The deployment that did it.")
    reason: str | None
    requested_by: str | None = Field(description="The user's id.")
    made_at: datetime


class DeploymentAccepted(BaseModel):
    """A deployment to follow at its Location."""

    deployment_id: UUID
    tenant_id: UUID


class InvitationView(BaseModel):
    """The invitation of a tenant's first administrator; its token is shown this once."""

    token: str
    email: str
    expires_at: datetime


RoleName = Annotated[str, Field(min_length=3, max_length=40, pattern="^[a-z][a-z0-9_]{2,39}$", examples=["support"])]
RoleNames = Annotated[list[RoleName], Field(min_length=1, max_length=20)]
Scope = Annotated[
    str, Field(min_length=6, max_length=60, pattern="^[a-z-]+:(read|write)$", examples=["customers:read"])
]
Scopes = Annotated[list[Scope], Field(max_length=100)]


class UserInvitation(Strict):
    """Whom to invite; nobody gives roles that allow more than he may do himself."""

    email: Email
    roles: RoleNames


class UserInvitationView(BaseModel):
    """The invitation of a user; its token is shown this once."""

    user_id: UUID
    token: str
    email: str
    expires_at: datetime

    @classmethod
    def shown(cls, invitation: Invitation) -> "UserInvitationView":
        return cls(
            user_id=invitation.user_id,
            token=invitation.token,
            email=invitation.email,
            expires_at=invitation.expires_at,
        )


class UserChange(Strict):
    """The fields to change."""

    roles: RoleNames | None = None
    disabled: StrictBool | None = None


class RoleData(Strict):
    """A role: a name for a set of scopes, at most those of a tenant's administrator."""

    name: RoleName
    description: Description | None = None
    scopes: Scopes


class RoleChange(Strict):
    """The fields to change; null clears the description. The name stays: users have the role by it."""

    description: Description | None = None
    scopes: Scopes = Field(default_factory=list)


class RoleView(RowView):
    """A role that the tenant defines itself."""

    KEY = "role_id"

    id: UUID
    name: str
    description: str | None
    scopes: list[str]
    version: int
    created_at: datetime
    updated_at: datetime


class BuiltInRole(BaseModel):
    """A role that every tenant has."""

    name: str
    scopes: list[str]


class BuiltInRoles(BaseModel):
    """The roles that every tenant has, or that the platform has."""

    items: list[BuiltInRole]


class UserView(RowView):
    """One who can sign in, once an invitation is accepted."""

    KEY = "user_id"

    id: UUID
    tenant_id: UUID
    email: str
    roles: list[str]
    status: str = Field(description="invited (and has no password yet), active, or disabled")
    version: int
    reset_requested_at: datetime | None = Field(description="When the user last asked for a reset.")
    created_at: datetime


class RevocationView(BaseModel):
    """Tokens of a user that are valid no longer, in each service as soon as it has heard of it."""

    user_id: UUID
    issued_before: datetime = Field(description="Tokens issued until then are revoked.")


class ResetView(BaseModel):
    """A reset of a password, for the user to accept; its token is shown this once."""

    token: str
    email: str
    expires_at: datetime


class SessionView(RowView):
    """A session: what a sign-in opened, and refresh tokens keep open."""

    KEY = "session_id"

    id: UUID
    user_id: UUID
    address: str | None = Field(description="Where it was last used from, as far as the service is told.")
    user_agent: str | None
    created_at: datetime
    used_at: datetime = Field(description="When it was last refreshed.")
    idle_until: datetime = Field(description="When it ends unless it is refreshed.")
    expires_at: datetime = Field(description="When it ends in any case.")
    current: bool = Field(description="Whether the access token that asks was issued in it.")


class ApiKeyData(Strict):
    """An API key to make."""

    name: ShortText
    scopes: Scopes
    expires_in_days: Whole = Field(90, ge=1, le=366)


class ApiKeyView(RowView):
    """An API key, without what is told of it only once."""

    KEY = "api_key_id"

    id: UUID
    user_id: UUID
    name: str
    prefix: str = Field(description="How the key begins.")
    scopes: list[str] = Field(description="What it allows, as far as its user may do it.")
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class ApiKeyWithKey(ApiKeyView):
    """An API key with the key itself, which is told this once."""

    key: str


class ServiceAccountData(Strict):
    """A service account to make."""

    name: ShortText
    description: Description | None = None
    scopes: Scopes


class ServiceAccountChange(Strict):
    """The fields to change; null clears the description."""

    description: Description | None = None
    scopes: Scopes = Field(default_factory=list)


class ServiceAccountView(RowView):
    """An account that a program works as; its id is the client's id."""

    KEY = "service_account_id"

    id: UUID
    name: str
    description: str | None
    scopes: list[str]
    version: int
    created_at: datetime
    updated_at: datetime


class CredentialData(Strict):
    """A secret to make."""

    expires_in_days: Whole = Field(0, ge=0, le=3660, description="0 for one that is good until it is removed.")


class CredentialView(RowView):
    """A secret of a service account, without what is told of it only once."""

    KEY = "credential_id"

    id: UUID
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class CredentialWithSecret(BaseModel):
    """A secret, which is told this once."""

    credential_id: UUID
    secret: str


class ServiceAccountDetail(ServiceAccountView):
    """A service account, and what is known of its secrets."""

    credentials: list[CredentialView]


class ServiceAccountWithSecret(ServiceAccountView, CredentialWithSecret):
    """A service account with its first secret, which is told this once."""


class SignUpView(RowView):
    """An ISP that signed up."""

    KEY = "sign_up_id"

    id: UUID
    name: str
    slug: str
    contact_email: str
    plan: str
    currency: str
    country: str
    time_zone: str
    status: str = Field(description="pending, approved or rejected")
    reason: str | None = Field(description="Why it was rejected.")
    created_tenant_id: UUID | None = Field(description="The tenant that it became.")
    created_at: datetime
    decided_at: datetime | None
    decided_by: str | None


class Approval(Strict):
    """What is to be otherwise than was asked for."""

    slug: Slug | None = None
    plan: PlanCode | None = None


class Rejection(Strict):
    """Why, for the platform to know later."""

    reason: Text | None = None


class Approved(BaseModel):
    """The tenant that a sign-up became, and its first administrator's invitation."""

    tenant: TenantView
    invitation: UserInvitationView


def _schema(kind: Kind) -> dict[str, Any]:
    known = _shown(kind) if isinstance(kind, Number) else {"type": "string", "minLength": 1, "maxLength": kind.most}
    return {"anyOf": [known, {"type": "null"}]}


def _shown(kind: Kind) -> dict[str, Any]:
    if isinstance(kind, Number):
        return {"type": "integer", "minimum": kind.minimum, "maximum": kind.maximum}
    return {"type": "string", "max_length": kind.most}


class SettingsChange(RootModel[dict[str, Any]]):
    """Settings of one category by their names; null sets one back to its default."""

    model_config = ConfigDict(
        json_schema_extra={
            "properties": {
                name: _schema(setting.kind)
                for category in SETTINGS.values()
                for name, setting in category.settings.items()
            },
            "additionalProperties": False,
            "examples": [{"payment_terms_days": 30}],
        }
    )


class SettingView(BaseModel):
    """A setting: what it is, and what it may be."""

    name: str
    description: str
    type: str = Field(description="integer or string")
    minimum: int | None = None
    maximum: int | None = None
    max_length: int | None = None
    default: int | str | None
    value: int | str | None = Field(description="What it is now; null where it is nothing, or write-only.")
    write_only: bool = Field(description="Whether its value is secret: kept sealed, and shown to nobody.")
    is_set: bool = Field(description="Whether it is not left at its default.")


class SettingsOfCategory(BaseModel):
    """The settings of a category."""

    category: str
    description: str
    version: int = Field(description="How often they were changed.")
    updated_at: datetime | None
    settings: list[SettingView]

    @classmethod
    def of(cls, name: str, kept: Kept) -> "SettingsOfCategory":
        category = SETTINGS[name]
        views = [
            SettingView(
                name=each,
                description=setting.description,
                **_shown(setting.kind),
                default=setting.default,
                value=None if setting.secret else kept.given.get(each, setting.default),
                write_only=setting.secret,
                is_set=each in kept.secrets if setting.secret else each in kept.given,
            )
            for each, setting in category.settings.items()
        ]
        return cls(
            category=name,
            description=category.description,
            version=kept.version,
            updated_at=kept.updated_at,
            settings=views,
        )


class SettingsView(BaseModel):
    """A tenant's settings."""

    items: list[SettingsOfCategory]
