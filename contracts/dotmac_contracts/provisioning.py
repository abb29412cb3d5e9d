"""Events of deployments: how they go, and what they ask of other services."""

from uuid import UUID

from pydantic import Field

from dotmac_contracts import topics
from dotmac_contracts.envelope import Event, Tombstone
from dotmac_contracts.tenant import Target
from dotmac_contracts.workspace import WorkspaceParameters

DEDICATED = ("customer", "billing")
"""The services that a tenant can have instances of its own of; the source of an event says of which it is."""


class _Deployment(Event):
    deployment_id: UUID = Field(description="The deployment.")
    tenant_id: UUID = Field(description="The tenant that is deployed.")


class DeploymentStarted(_Deployment, topic=topics.PROVISIONING_DEPLOYMENT):
    """A deployment is under way."""

    target: Target = Field(description="Where to.")
    dedicated_target: str | None = Field(
        default=None,
        description="Where to instead, a place of the tenant's own: `process` or `container`; more may come.",
        examples=["process"],
    )
    operation: str = Field(
        default="deploy",
        description="`deploy`, `suspend`, `maintain`, `resume`, `upgrade`, `scale`, `roll_back`, `move`,"
        " `deprovision`; more may come.",
        examples=["deploy"],
    )


class OfWorkspace(_Deployment):
    """Concerns the services of the ISP framework: the instance of each that works for the tenant."""

    dedicated: bool = Field(
        default=False, description="Whether the tenant has instances of its own, which alone do what is asked."
    )


class WorkspaceRequested(OfWorkspace, topic=topics.PROVISIONING_DEPLOYMENT):
    """Every service of the ISP framework is to prepare a tenant's workspace and to say when it is ready."""

    name: str = Field(description="The tenant's name.", examples=["Acme Fiber"])
    currency: str = Field(description="ISO 4217 code.", examples=["USD"])
    country: str = Field(description="ISO 3166-1 alpha-2 code.", examples=["US"])
    time_zone: str = Field(description="IANA time zone.", examples=["America/New_York"])
    parameters: WorkspaceParameters | None = Field(default=None, description="How to prepare it.")


class WorkspaceRemovalRequested(OfWorkspace, topic=topics.PROVISIONING_DEPLOYMENT):
    """A deployment failed: every service is to remove the workspace it prepared for it."""


class AdministratorRequested(_Deployment, topic=topics.PROVISIONING_DEPLOYMENT):
    """The tenant's first administrator is to be created."""

    email: str = Field(description="The administrator's address.", examples=["admin@acme.example"])


class AdministratorRemovalRequested(_Deployment, topic=topics.PROVISIONING_DEPLOYMENT):
    """A deployment failed: the administrator created for it is to be removed."""


class TenantTransitionRequested(_Deployment, topic=topics.PROVISIONING_DEPLOYMENT):
    """The tenant is to go to another status, if it can from where it is."""

    step: str = Field(description="The deployment's step that asks for it.", examples=["close_access"])
    status: str = Field(description="The status.", examples=["suspended"])
    reason: str | None = Field(default=None, description="Why, if it was said.", examples=["The invoice is overdue."])


class TenantTransitionReversalRequested(_Deployment, topic=topics.PROVISIONING_DEPLOYMENT):
    """A deployment failed: the tenant is to go back to the status that it had before."""

    step: str = Field(description="The deployment's step that is undone.", examples=["close_access"])


class DataExportRequested(OfWorkspace, topic=topics.PROVISIONING_DEPLOYMENT):
    """A tenant leaves: every service is to write its data down."""


class DataDeletionRequested(OfWorkspace, topic=topics.PROVISIONING_DEPLOYMENT):
    """A tenant leaves: every service is to delete its data, and to count what is left."""

    step: str = Field(description="The deployment's step that asks for it.", examples=["delete_data"])


class DeploymentSucceeded(_Deployment, topic=topics.PROVISIONING_DEPLOYMENT):
    """The operation is done, and was verified through the gateway."""


class DeploymentFailed(_Deployment, topic=topics.PROVISIONING_DEPLOYMENT):
    """The deployment failed, and what it had done is undone."""

    step: str = Field(description="The step that failed.", examples=["verify"])
    reason: str = Field(description="Why, for a person to act on.")
    irrevocable: bool = Field(
        default=False, description="Whether it has done what can't be undone: it can only be tried again."
    )


class RouteAssigned(_Deployment, topic=topics.PROVISIONING_ROUTE_SNAPSHOT):
    """A tenant has instances of its own: what it asks of these services goes to them from now on."""

    addresses: dict[str, str] = Field(
        description="By service, where the tenant's instance answers: http://host:port; of several, each, with commas"
        " between.",
        examples=[{"customer": "http://127.0.0.1:20001", "billing": "http://127.0.0.1:20002"}],
    )
    on_hold: tuple[str, ...] = Field(
        default=(),
        description="The services that move to another place with the tenant just now: what it asks of these waits for"
        " its next route.",
        examples=[["customer", "billing"]],
    )


class RouteWithdrawn(Tombstone, topic=topics.PROVISIONING_ROUTE_SNAPSHOT):
    """A tenant has no instances of its own any more."""

    tenant_id: UUID = Field(description="The tenant.")


class _Drift(Event):
    drift_id: UUID = Field(description="The drift.")
    tenant_id: UUID = Field(description="The tenant of which something is not as it was left.")
    kind: str = Field(
        description="`workspace_missing`, `workspace_left`, `administrator_missing`, `standing_differs`,"
        " `status_differs`, `database_missing`; more may come.",
        examples=["workspace_missing"],
    )


class DriftFound(_Drift, topic=topics.PROVISIONING_DRIFT):
    """Something of a tenant is not as its deployments left it."""

    detail: str = Field(description="What was seen.", examples=["GET /api/v1/workspace answered 404"])
    remedy: str = Field(
        description="What is done about it: `repair` and `repair_administrator`, which are deployments, `tell_again`,"
        " or `report`, which leaves it to a person; more may come.",
        examples=["repair"],
    )
    deployment_id: UUID | None = Field(default=None, description="The deployment that repairs it, if one does.")


class DriftResolved(_Drift, topic=topics.PROVISIONING_DRIFT):
    """It is as it is to be again, whoever mended it."""
