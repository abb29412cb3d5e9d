"""Events of the management platform."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from dotmac_contracts import topics
from dotmac_contracts.envelope import Event

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


class TenantRegistered(_Tenant, topic=topics.TENANT):
    """An ISP was registered."""


class TenantUpdated(_Tenant, topic=topics.TENANT):
    """What is known of an ISP changed; all fields are the present ones."""


class TenantActivated(Event, topic=topics.TENANT):
    """A tenant's deployment succeeded, and it can be used."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that succeeded.")


class DeploymentRequested(Event, topic=topics.TENANT_DEPLOYMENT):
    """The platform asks for a tenant to be deployed."""

    deployment_id: UUID = Field(description="The deployment, named by who asks.")
    tenant_id: UUID = Field(description="The tenant to deploy.")
    slug: str = Field(description="The tenant's short name.", examples=["acme"])
    name: str = Field(description="The tenant's name.", examples=["Acme Fiber"])
    target: Target = Field(description="Where to: `pooled` shares services and databases.")
    currency: str = Field(description="ISO 4217 code.", examples=["USD"])
    country: str = Field(description="ISO 3166-1 alpha-2 code.", examples=["US"])
    time_zone: str = Field(description="IANA time zone.", examples=["America/New_York"])
    administrator_email: str = Field(
        description="Who becomes its first administrator.", examples=["admin@acme.example"]
    )


class AdministratorCreated(Event, topic=topics.TENANT_USER):
    """A tenant's first administrator exists, and can be invited."""

    user_id: UUID = Field(description="The user.")
    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that asked for it.")
    email: str = Field(description="The user's address.", examples=["admin@acme.example"])
