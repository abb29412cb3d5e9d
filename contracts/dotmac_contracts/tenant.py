"""Events of the management platform."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from dotmac_contracts import topics
from dotmac_contracts.departure import DataDeleted, DataExported
from dotmac_contracts.envelope import Event, Tombstone
from dotmac_contracts.quota import Quotas, QuotaThreshold
from dotmac_contracts.workspace import WorkspaceParameters

Target = Literal["pooled"]


class _Tenant(Event):
    tenant_id: UUID = Field(description="The tenant, an ISP.")
    name: str = Field(description="The ISP's name.", examples=["Acme Fiber"])
    slug: str = Field(description="Its short name, unique on the platform.", examples=["acme"])
    contact_email: str = Field(description="Whom to write to.", examples=["admin@acme.example"])
    plan: str = Field(description="Its plan on the platform.", examples=["standard"])
    currency: str = Field(description="ISO 4217 code in which it bills.", examples=["USD"])
    country: str = Field(description="ISO 3166-1 alpha-2 code.", examples=["US"])
    time_zone: str = Field(description="IANA time zone.", examples=["America/New_York"])


class SignUpRequested(_Tenant, topic=topics.TENANT_SIGN_UP):
    """An ISP signed up by itself, and waits for the platform to decide; its tenant is the platform's until then."""

    sign_up_id: UUID = Field(description="The sign-up.")


class SignUpApproved(Event, topic=topics.TENANT_SIGN_UP):
    """The platform approved: the tenant is registered, and its first administrator is invited."""

    sign_up_id: UUID = Field(description="The sign-up.")
    tenant_id: UUID = Field(description="The platform's tenant.")
    created_tenant_id: UUID = Field(description="The tenant that it became.")
    decided_by: str = Field(description="By whom: the subject of the access token.")


class SignUpRejected(Event, topic=topics.TENANT_SIGN_UP):
    """The platform turned it down."""

    sign_up_id: UUID = Field(description="The sign-up.")
    tenant_id: UUID = Field(description="The platform's tenant.")
    reason: str | None = Field(default=None, description="Why.", examples=["Not an ISP"])
    decided_by: str = Field(description="By whom: the subject of the access token.")


class TenantRegistered(_Tenant, topic=topics.TENANT):
    """An ISP was registered."""


class TenantUpdated(_Tenant, topic=topics.TENANT):
    """What is known of an ISP changed; all fields are the present ones."""


class TenantSnapshot(_Tenant, topic=topics.TENANT_SNAPSHOT):
    """An ISP as it is now; what was told of it before need not be known."""

    status: str = Field(
        description="`registered`, `deploying`, `active`, `suspended`, `maintenance`, `deprovisioning`,"
        " `deprovisioned` or `failed`; more may come.",
        examples=["active"],
    )
    deployment_id: UUID | None = Field(default=None, description="Its last deployment, if one was asked for.")
    created_at: datetime = Field(description="When it was registered, in UTC.")
    updated_at: datetime = Field(description="When it last changed, in UTC.")
    quotas: Quotas | None = Field(default=None, description="What its plan allows.")


class TenantSnapshotRemoved(Tombstone, topic=topics.TENANT_SNAPSHOT):
    """An ISP has left the platform and its data is deleted: forget it too, and never let in its users."""

    tenant_id: UUID = Field(description="The tenant.")


class UserQuotaThresholdReached(QuotaThreshold, topic=topics.TENANT):
    """A tenant uses 80 % of its quota of users, or all of it; told once each time that it gets there."""


class TenantDeploying(Event, topic=topics.TENANT):
    """A tenant's deployment was asked for."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment.")


class TenantDeploymentFailed(Event, topic=topics.TENANT):
    """A tenant's deployment failed and what it had done is undone; it can be asked for again."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that failed.")
    reason: str = Field(description="Why, for a person to act on.", examples=["verify gave up after 60 s"])


class TenantActivated(Event, topic=topics.TENANT):
    """A tenant's deployment succeeded, and it can be used."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that succeeded.")


class _Transition(Event):
    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID | None = Field(default=None, description="The deployment that did it.")
    reason: str | None = Field(default=None, description="Why, if it was said.", examples=["The invoice is overdue."])


class TenantSuspended(_Transition, topic=topics.TENANT):
    """A tenant was suspended: its users can't use the platform until it is resumed."""


class TenantMaintenanceStarted(_Transition, topic=topics.TENANT):
    """A tenant is being worked on: its users can't use the platform until it is resumed."""


class TenantResumed(_Transition, topic=topics.TENANT):
    """A tenant that was suspended, or worked on, is active again."""


class TenantDeprovisioning(_Transition, topic=topics.TENANT):
    """A tenant leaves: nobody uses it any more, and its data will be written down and deleted."""


class TenantDeprovisioningCancelled(_Transition, topic=topics.TENANT):
    """A tenant does not leave after all, and is what it was before."""

    status: str = Field(description="What it is again.", examples=["active"])


class TenantDeprovisioned(_Transition, topic=topics.TENANT):
    """A tenant has left, and its data is deleted."""


GRACE_SECONDS = {"deprovision": 30 * 24 * 3600}
"""How long an operation waits that is ordered without saying so; the others not at all."""


class DeploymentRequested(Event, topic=topics.TENANT_DEPLOYMENT):
    """The platform asks for an operation on a tenant's deployment: by default that it be deployed."""

    deployment_id: UUID = Field(description="The deployment, named by who asks.")
    tenant_id: UUID = Field(description="The tenant to deploy.")
    slug: str = Field(description="The tenant's short name.", examples=["acme"])
    name: str = Field(description="The tenant's name.", examples=["Acme Fiber"])
    target: Target = Field(description="Where to: `pooled` shares services and databases.")
    dedicated_target: str | None = Field(
        default=None,
        description="Where to instead, to databases and instances of the tenant's own: `process` or `container`; more"
        " may come.",
        examples=["process"],
    )
    moved_from: str | None = Field(
        default=None, description="Of a move, at which target the tenant is.", examples=["pooled"]
    )
    currency: str = Field(description="ISO 4217 code.", examples=["USD"])
    country: str = Field(description="ISO 3166-1 alpha-2 code.", examples=["US"])
    time_zone: str = Field(description="IANA time zone.", examples=["America/New_York"])
    administrator_email: str = Field(
        description="Who becomes its first administrator.", examples=["admin@acme.example"]
    )
    operation: str = Field(
        default="deploy",
        description="`deploy`, `suspend`, `maintain`, `resume`, `upgrade`, `scale`, `roll_back`, `move`,"
        " `deprovision`; more may come.",
        examples=["deploy"],
    )
    reason: str | None = Field(default=None, description="Why, if it was said.", examples=["The invoice is overdue."])
    grace_seconds: int = Field(default=0, description="How long to wait before it takes effect.", examples=[0])
    release: str | None = Field(
        default=None, description="To which release to upgrade; without it, to the newest.", examples=["0.2.0"]
    )
    instances: int | None = Field(
        default=None, description="How many instances of each service the tenant is to have.", examples=[2]
    )
    template_id: UUID | None = Field(default=None, description="The template that it was ordered by.")
    parameters: WorkspaceParameters | None = Field(default=None, description="How to prepare the tenant's workspaces.")


class _Template(Event):
    template_id: UUID = Field(description="The template.")
    tenant_id: UUID = Field(description="The platform's tenant.")
    name: str = Field(description="Its name.", examples=["rural fiber"])


class _TemplateAsItIs(_Template):
    description: str | None = Field(default=None, description="What it is for.", examples=["For small ISPs"])
    target: str = Field(description="Where tenants are deployed to by it.", examples=["pooled"])
    plan: str | None = Field(default=None, description="The plan that they get; none leaves them theirs.")
    parameters: dict[str, Any] = Field(
        description="By name, what an order may say otherwise, as it is where the order says nothing.",
        examples=[{"payment_terms_days": 30}],
    )
    changed_by: str = Field(description="By whom: the subject of the access token.")


class DeploymentTemplateCreated(_TemplateAsItIs, topic=topics.TENANT_DEPLOYMENT_TEMPLATE):
    """A template of deployments was made."""


class DeploymentTemplateUpdated(_TemplateAsItIs, topic=topics.TENANT_DEPLOYMENT_TEMPLATE):
    """A template of deployments changed; all fields are the present ones."""


class DeploymentTemplateDeleted(_Template, topic=topics.TENANT_DEPLOYMENT_TEMPLATE):
    """A template of deployments is gone; what was deployed by it stays."""

    deleted_by: str = Field(description="By whom: the subject of the access token.")


class _DeploymentTransition(Event):
    deployment_id: UUID = Field(description="The deployment that asked for it.")
    tenant_id: UUID = Field(description="The tenant.")
    step: str = Field(description="The deployment's step that asked for it.", examples=["close_access"])
    status: str = Field(description="The tenant's status now.", examples=["suspended"])


class TenantTransitionMade(_DeploymentTransition, topic=topics.TENANT_DEPLOYMENT):
    """The tenant is in the status that a deployment asked for."""


class TenantTransitionRefused(_DeploymentTransition, topic=topics.TENANT_DEPLOYMENT):
    """The tenant can't go to the status that a deployment asked for."""

    reason: str = Field(description="Why, for a person to act on.", examples=["the tenant is deploying"])


class TenantTransitionReversed(_DeploymentTransition, topic=topics.TENANT_DEPLOYMENT):
    """The tenant is in the status again that it had before the deployment."""


class _User(Event):
    user_id: UUID = Field(description="The user.")
    tenant_id: UUID = Field(description="The user's tenant; for the platform's own users zero.")


class UserCreated(_User, topic=topics.TENANT_USER):
    """The platform's first administrator was created, or is told of for the first time."""

    email: str = Field(description="The user's address.", examples=["admin@dotmac.example"])
    roles: list[str] = Field(description="What the user may do.", examples=[["super_admin"]])


class PasswordChanged(_User, topic=topics.TENANT_USER):
    """A user has another password, and other sessions than the present one have ended."""

    reset: bool = Field(description="Whether by the token of a reset, without the password before.")


class PasswordResetRequested(_User, topic=topics.TENANT_USER):
    """Somebody who knows a user's name asked for another password; an administrator may make the reset."""


class PasswordResetCreated(_User, topic=topics.TENANT_USER):
    """An administrator made a reset, and was given the token to pass on."""

    created_by: str = Field(description="The administrator: the subject of the access token.")
    expires_at: AwareDatetime = Field(description="Until when it can be used, in UTC.")


class SecondFactorEnabled(_User, topic=topics.TENANT_USER):
    """A user's sign-in asks for a code beside the password from now on."""


class SecondFactorDisabled(_User, topic=topics.TENANT_USER):
    """A user's sign-in asks for no code any more."""

    disabled_by: str = Field(description="By whom, the user or an administrator: the subject of the access token.")


class RecoveryCodeUsed(_User, topic=topics.TENANT_USER):
    """A user gave a recovery code in place of one of the authenticator app."""

    left: int = Field(description="How many are left.", examples=[9])


class RecoveryCodesRenewed(_User, topic=topics.TENANT_USER):
    """A user has new recovery codes; those before are void."""


class UserInvited(_User, topic=topics.TENANT_USER):
    """A user without a password was invited to choose one, for the first time or anew."""

    email: str = Field(description="The user's address.", examples=["ada@acme.example"])
    roles: list[str] = Field(description="What the user may do.", examples=[["support"]])
    expires_at: AwareDatetime = Field(description="Until when the invitation can be accepted, in UTC.")
    invited_by: str = Field(description="By whom: the subject of the access token.")


class InvitationAccepted(_User, topic=topics.TENANT_USER):
    """A user accepted an invitation, and can sign in."""


class UserUpdated(_User, topic=topics.TENANT_USER):
    """What a user may do changed; all fields are the present ones."""

    roles: list[str] = Field(description="What the user may do.", examples=[["manager"]])
    disabled: bool = Field(description="Whether the user can't sign in.")
    changed_by: str = Field(description="By whom: the subject of the access token, or `settings`.")


class UserDeleted(_User, topic=topics.TENANT_USER):
    """A user is gone, and all that was issued to the user has ended."""

    deleted_by: str = Field(description="By whom: the subject of the access token.")


class _Role(Event):
    role_id: UUID = Field(description="The role.")
    tenant_id: UUID = Field(description="The tenant that defines it.")
    name: str = Field(description="Its name, by which users have it.", examples=["night_shift"])


class _RoleAsItIs(_Role):
    description: str | None = Field(default=None, description="What it is for.", examples=["On call at night"])
    scopes: list[str] = Field(description="What it allows.", examples=[["customers:read"]])
    changed_by: str = Field(description="By whom: the subject of the access token.")


class RoleCreated(_RoleAsItIs, topic=topics.TENANT_ROLE):
    """A tenant defined a role."""


class RoleUpdated(_RoleAsItIs, topic=topics.TENANT_ROLE):
    """A role changed; all fields are the present ones."""


class RoleDeleted(_Role, topic=topics.TENANT_ROLE):
    """A role that nobody had is gone."""

    deleted_by: str = Field(description="By whom: the subject of the access token.")


class _ApiKey(Event):
    api_key_id: UUID = Field(description="The API key.")
    tenant_id: UUID = Field(description="Its user's tenant.")
    user_id: UUID = Field(description="Whose it is.")


class ApiKeyCreated(_ApiKey, topic=topics.TENANT_API_KEY):
    """A user made an API key."""

    name: str = Field(description="What it is for.", examples=["nightly export"])
    prefix: str = Field(description="How it begins, by which it is known.", examples=["dmk_5f3a9c01"])
    scopes: list[str] = Field(description="What it allows at most.", examples=[["customers:read"]])
    expires_at: AwareDatetime = Field(description="Until when it is good, in UTC.")


class ApiKeyRevoked(_ApiKey, topic=topics.TENANT_API_KEY):
    """An API key is good no longer, nor are the access tokens that were issued for it."""

    revoked_by: str = Field(description="By whom: the subject of the access token.")


class _ServiceAccount(Event):
    service_account_id: UUID = Field(description="The service account.")
    tenant_id: UUID = Field(description="Its tenant.")
    changed_by: str = Field(description="By whom: the subject of the access token.")


class _ServiceAccountAsItIs(_ServiceAccount):
    name: str = Field(description="Its name.", examples=["billing export"])
    description: str | None = Field(default=None, description="What it is for.", examples=["Runs at night"])
    scopes: list[str] = Field(description="What it may do.", examples=[["customers:read"]])


class ServiceAccountCreated(_ServiceAccountAsItIs, topic=topics.TENANT_SERVICE_ACCOUNT):
    """An account for a program was made, with a first secret."""


class ServiceAccountUpdated(_ServiceAccountAsItIs, topic=topics.TENANT_SERVICE_ACCOUNT):
    """What a service account may do, or what is said of it, was changed."""


class ServiceAccountCredentialAdded(_ServiceAccount, topic=topics.TENANT_SERVICE_ACCOUNT):
    """A service account has another secret."""

    credential_id: UUID = Field(description="The secret, by its id.")


class ServiceAccountCredentialRemoved(_ServiceAccount, topic=topics.TENANT_SERVICE_ACCOUNT):
    """A secret of a service account is good no longer, nor are the access tokens that were issued for it."""

    credential_id: UUID = Field(description="The secret, by its id.")


class ServiceAccountDeleted(_ServiceAccount, topic=topics.TENANT_SERVICE_ACCOUNT):
    """A service account is gone, and all that it was issued has ended."""


class _Administrator(Event):
    user_id: UUID = Field(description="The user.")
    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that asked for it.")


class AdministratorCreated(_Administrator, topic=topics.TENANT_USER):
    """A tenant's first administrator exists, and can be invited."""

    email: str = Field(description="The user's address.", examples=["admin@acme.example"])


class AdministratorRemoved(_Administrator, topic=topics.TENANT_USER):
    """What a failed deployment had done about the tenant's administrator is undone."""


class _Session(Event):
    user_id: UUID = Field(description="The user.")
    tenant_id: UUID = Field(description="The user's tenant.")


class TokenRevoked(_Session, topic=topics.TENANT_SESSION):
    """An access token is valid no longer: its user logged out."""

    token_id: UUID = Field(description="The token, by its claim `jti`.")
    expires_at: AwareDatetime = Field(description="When it would have expired anyway, in UTC.")


class TokensRevoked(_Session, topic=topics.TENANT_SESSION):
    """All access tokens that a user was issued until a moment are valid no longer."""

    issued_before: AwareDatetime = Field(description="That moment, in UTC: tokens issued then are revoked as well.")
    sessions_ended: bool = Field(default=False, description="Whether all of the user's sessions ended with them.")


class SessionEnded(_Session, topic=topics.TENANT_SESSION):
    """A session ended: it can't be refreshed, and the access tokens that were issued in it are valid no longer."""

    session_id: UUID = Field(description="The session, by its tokens' claim `sid`.")
    expires_at: AwareDatetime = Field(description="When the last of its access tokens would have expired, in UTC.")
    reason: str = Field(
        description="`signed-out`, `revoked`, `reused` (a refresh token came twice), `password-changed` or another.",
        examples=["signed-out"],
    )


class SignedIn(_Session, topic=topics.TENANT_SESSION):
    """A user signed in with a password, and has a session."""

    session_id: UUID = Field(description="The session, by its tokens' claim `sid`.")


class SignInFailed(_Session, topic=topics.TENANT_SESSION):
    """Somebody who knows a user's name was not let in. Of a name that is nobody's nothing is told."""

    reason: str = Field(description="`password`, `code` (of the second factor) or another.", examples=["password"])
    failures: int = Field(description="How many attempts in a row were not right, with this one.", examples=[3])
    locked_seconds: int = Field(description="For how long nobody can sign in by this name.", examples=[0])


class _Settings(Event):
    settings_id: UUID = Field(description="The tenant's settings of the category.")
    tenant_id: UUID = Field(description="The tenant; for the platform's own settings zero.")
    category: str = Field(description="`billing`, `branding`, `notifications`; more may come.", examples=["billing"])
    values: dict[str, int | str] = Field(
        description="By name, those that are not left at their defaults, and no secret ones.",
        examples=[{"payment_terms_days": 30}],
    )


class SettingsChanged(_Settings, topic=topics.TENANT_SETTINGS):
    """Settings changed. Of those that are secret it is told that they are set, and never what they are."""

    changed: list[str] = Field(description="The names of those that changed.", examples=[["payment_terms_days"]])
    secrets: list[str] = Field(description="The names of secret ones that are set.", examples=[["smtp_password"]])
    changed_by: str = Field(description="By whom: the subject of the access token.")


class SettingsSnapshot(_Settings, topic=topics.TENANT_SETTINGS_SNAPSHOT):
    """A tenant's settings of a category as they are now; what was told of them before need not be known."""

    updated_at: datetime = Field(description="When they last changed, in UTC.")


class SettingsSnapshotRemoved(Tombstone, topic=topics.TENANT_SETTINGS_SNAPSHOT):
    """A tenant has left the platform, and its settings are deleted: forget them too."""

    settings_id: UUID = Field(description="The tenant's settings of a category.")
    tenant_id: UUID = Field(description="The tenant.")


class TenantDataExported(DataExported, topic=topics.TENANT_DEPARTURE):
    """The tenant service has written a tenant's data down, or could not."""


class TenantDataDeleted(DataDeleted, topic=topics.TENANT_DEPARTURE):
    """The tenant service has deleted a tenant's data, and has counted what is left."""
