"""What the shapes of requests and answers of every service have in common."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A request that refuses fields which it does not know."""

    model_config = ConfigDict(extra="forbid")


class RowView(BaseModel):
    """An answer that shows a row: its fields are the row's columns of the same names, `id` is the column `KEY`."""

    KEY: ClassVar[str]

    @classmethod
    def of(cls, row: Any) -> Self:
        """Show a row."""
        return cls(**{name: row[cls.KEY if name == "id" else name] for name in cls.model_fields})
