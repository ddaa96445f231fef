"""What all settings are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


NumProcesses = Literal["auto"] | Annotated[int, Field(ge=1)]


class NoOptions(Settings):
    """Settings of a plug that has none of its own."""
