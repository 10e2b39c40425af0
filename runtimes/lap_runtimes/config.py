"""What every runtime's configuration has in common.

A secret is written as a reference (`env:NAME`, `file:PATH`) and resolved while the model is
validated, by a resolver that the caller passes in the validation context (`resolve_secret`, and
`read_variable` for what is no secret): adapters never read the environment.  `learn_secret` there
is told what is issued later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
)

from lap_runtimes.origin import origin_of


def resolve_secret(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, SecretStr):
        return value
    resolve = (info.context or {}).get("resolve_secret")
    if resolve is None:
        raise ValueError("a secret reference needs a resolver in the validation context")
    return resolve(value)


def _fit_for_a_header(secret: SecretStr) -> SecretStr:
    """Without the line end that files have.  Raises `ValueError`, which never shows the secret."""
    value = secret.get_secret_value().strip()
    if not value:
        raise ValueError("the secret is empty")
    if not (value.isascii() and value.isprintable()):
        raise ValueError("the secret holds characters that cannot be sent in a header")
    return SecretStr(value)


def one_origin(url: str) -> str:
    """A field's check: an http or https address without a password.  Raises `ValueError`."""
    if urlsplit(url).username is not None:
        raise ValueError("a user name or password does not belong here; use auth")
    origin_of(url)
    return url


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for each in origins:
        if each != "*":
            one_origin(each)
    return origins


Secret = Annotated[SecretStr, BeforeValidator(resolve_secret), AfterValidator(_fit_for_a_header)]
"""A `SecretStr` that is configured as `env:NAME` or `file:PATH`, never as the secret itself."""

Address = Annotated[str, AfterValidator(one_origin)]
"""An http or https address, without a credential in it."""


def _sendable(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if not (f"{name}{value}".isascii() and f"{name}{value}".isprintable()):
            raise ValueError(f"{name!r} holds characters that cannot be sent in a header")
    return headers


PlainHeaders = Annotated[Mapping[str, str], AfterValidator(_sendable)]
"""Fixed headers that are not secret."""

Origins = Annotated[tuple[str, ...], AfterValidator(_origins)]
"""Origins beside that of `url` that an answer may lead to; they never get the credential."""


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

    @property
    def starts_process(self) -> bool:
        """The runtime is a program of this machine, which runs with our own rights."""
        return False


class HTTPRuntimeConfig(RuntimeConfig):
    """Base of the adapters that speak HTTP."""

    url: Address
    """Base address.  The credential is sent to its origin and to no other."""
    auth: Auth = Auth()
    headers: PlainHeaders = Field(default_factory=dict)
    """Fixed headers that are not secret."""
    allow_origins: Origins = ()
    """Other origins that a redirect, a card or a file link may lead to.  `*` allows file links to
    any public address, which are only read."""
    ca_file: str | None = None
    """PEM bundle to trust in place of the system's."""
    connect_timeout: float = Field(10.0, gt=0)
    """Seconds."""
    _learn_secret: Callable[[str], None] | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        self._learn_secret = (context or {}).get("learn_secret")

    @property
    def learn_secret(self) -> Callable[[str], None] | None:
        """Told each credential that is issued while the runtime is used, so that it is scrubbed."""
        return self._learn_secret
