"""OAuth of a Databricks workspace, by its SDK: service principals, users, profiles, Azure and the
rest of its unified authentication.  The only file that imports `databricks`, and only when the
first request is sent: an access token in `auth` needs none of it.
"""

from __future__ import annotations

import threading
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, model_validator

from lap_runtimes.authorizing import Outgoing, Proof
from lap_runtimes.config import Secret
from lap_runtimes.errors import Rejected, Unavailable
from lap_runtimes.http_errors import clean

_SECONDS = 20
"""How long the SDK tries to reach the workspace."""


class DatabricksOAuth(BaseModel):
    """A service principal, or a profile of `.databrickscfg`; with neither, where the SDK looks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = ""
    """Address of the workspace; unset: that of the runtime (`serving`), or of the profile."""
    client_id: str | None = None
    client_secret: Secret | None = None
    profile: str | None = None

    @property
    def workspace(self) -> str:
        """What names the workspace, if anything here does."""
        return self.host or self.profile or ""

    @model_validator(mode="after")
    def _fits_together(self) -> DatabricksOAuth:
        if (self.client_id is None) != (self.client_secret is None):
            raise ValueError("client_id and client_secret belong together")
        if self.profile is not None and self.client_id is not None:
            raise ValueError("profile: either a profile or client_id and client_secret")
        return self


class DatabricksToken:
    """An `Authorizer`.  The SDK renews a token before it expires; it works in a thread."""

    def __init__(self, config: DatabricksOAuth) -> None:
        self._config = config
        self._found: Any = None
        self._finding = threading.Lock()

    async def authorize(self, request: Outgoing) -> Proof:
        headers = await anyio.to_thread.run_sync(self._headers, abandon_on_cancel=True)
        return Proof(secret=headers)

    def _headers(self) -> dict[str, str]:
        try:
            from databricks.sdk.core import Config
            from databricks.sdk.errors.base import DatabricksError
        except ModuleNotFoundError as exc:
            words = "OAuth of Databricks needs an extra: pip install 'lap-mcp[databricks]'"
            raise Rejected(words, kind="invalid", sent=False) from exc
        config = self._config
        secret = config.client_secret
        named: dict[str, Any] = {
            "host": config.host or None,
            "profile": config.profile,
            "client_id": config.client_id,
            "client_secret": secret.get_secret_value() if secret is not None else None,
            # Else a token in the environment would make it complain of two ways to sign in.
            "auth_type": "oauth-m2m" if secret is not None else None,
            # Its own is five minutes.
            "retry_timeout_seconds": _SECONDS,
            "http_timeout_seconds": _SECONDS,
        }
        try:
            with self._finding:
                if self._found is None:
                    self._found = Config(**{k: v for k, v in named.items() if v is not None})
                return dict(self._found.authenticate())
        except (ValueError, DatabricksError) as exc:
            words = f"Databricks gave no token: {clean(self._without_secret(str(exc)))}"
            raise Rejected(words, kind="auth", sent=False) from exc
        except OSError as exc:
            raise Unavailable(f"Databricks gave no token: {exc}", sent=False) from exc

    def _without_secret(self, words: str) -> str:
        secret = self._config.client_secret
        return words if secret is None else words.replace(secret.get_secret_value(), "[secret]")
