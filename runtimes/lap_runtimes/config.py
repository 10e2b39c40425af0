"""What every runtime's configuration has in common.

A secret is written as a reference (`env:NAME`, `file:PATH`) and resolved while the model is
validated, by a resolver that the caller passes in the validation context: adapters never read the
environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo


def _resolve_secret(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, SecretStr):
        return value
    resolve = (info.context or {}).get("resolve_secret")
    if resolve is None:
        raise ValueError("a secret reference needs a resolver in the validation context")
    return resolve(value)


Secret = Annotated[SecretStr, BeforeValidator(_resolve_secret)]
"""A `SecretStr` that is configured as `env:NAME` or `file:PATH`, never as the secret itself."""


class Auth(BaseModel):
    """Credential of a runtime: one of the forms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bearer: Secret | None = None
    """Sent as `Authorization: Bearer …`."""
    header: Mapping[str, Secret] = Field(default_factory=dict)
    """Sent as these headers."""


class RuntimeConfig(BaseModel):
    """Base of each adapter's `Config`; `kind` and what the control plane reads are not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HTTPRuntimeConfig(RuntimeConfig):
    """Base of the adapters that speak HTTP."""

    url: str
    """Base address.  The credential is sent to its origin and to no other."""
    auth: Auth = Auth()
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Fixed headers that are not secret."""
    ca_file: str | None = None
    """PEM bundle to trust in place of the system's."""
    connect_timeout: float = Field(10.0, gt=0)
    """Seconds."""
