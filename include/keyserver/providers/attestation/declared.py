"""How a kind's settings are read. `keyserver.configuration` checked them when they were declared; this is the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from keyserver.errors import ConfigurationError


class DeclaredSettings(BaseModel):
    """Settings of a kind of attestation: no other fields than its own, and none of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """Return the settings; `ConfigurationError` names the one that is wrong, without its value."""
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(f"attestation: {place}: {first['msg']}") from None
