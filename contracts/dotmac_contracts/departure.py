"""What every service says when a tenant leaves: which of its data it wrote down, and which it deleted."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from dotmac_contracts.envelope import Event


class ExportedFile(BaseModel):
    """A table's rows of a tenant, as newline-delimited JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    table: str = Field(description="The table.", examples=["customer"])
    rows: int = Field(description="How many lines there are, one for each row.", examples=[2])
    sha256: str = Field(description="The file's digest, in hexadecimal.", examples=["e3b0c44298fc1c14"])


class TableDeletion(BaseModel):
    """What was deleted of a tenant in a table, and what is left."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    table: str = Field(description="The table.", examples=["customer"])
    deleted: int = Field(description="Rows that were deleted.", examples=[2])
    remaining: int = Field(description="Rows that were counted afterwards.", examples=[0])


class Departure(Event):
    """Shared: the deployment that a tenant leaves by."""

    deployment_id: UUID = Field(description="The deployment that asked for it.")
    tenant_id: UUID = Field(description="The tenant that leaves.")


class DataExported(Departure):
    """Shared: what was written down."""

    files: tuple[ExportedFile, ...] = Field(description="The files that were written.")
    failure: str | None = Field(
        default=None, description="Why nothing was written, if so.", examples=["EXPORT_DIRECTORY is not set"]
    )


class DataDeleted(Departure):
    """Shared: what was deleted."""

    step: str = Field(description="The deployment's step that asked for it.", examples=["delete_data"])
    tables: tuple[TableDeletion, ...] = Field(description="Every table that can hold a tenant's rows.")
