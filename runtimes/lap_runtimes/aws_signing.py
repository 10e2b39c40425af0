"""Signs requests for AWS (Signature Version 4).  The only file that imports botocore, and only when
the first request is signed: agents that take an OAuth token need none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, model_validator

from lap_runtimes.authorizing import Outgoing, Proof
from lap_runtimes.config import Secret
from lap_runtimes.errors import Rejected, Unavailable

_SIGNED = ("host", "content-type", "accept")
"""Beside `x-amz…`: what no proxy on the way changes."""
_PROOF = ("authorization", "x-amz-security-token")


class AWSCredentials(BaseModel):
    """Keys, or a profile of the AWS configuration files; with neither, where botocore looks: the
    standard variables, the default profile, single sign-on, the role of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key_id: Secret | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    profile: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> AWSCredentials:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token: needs access_key_id and secret_access_key")
        if self.profile is not None and self.access_key_id is not None:
            raise ValueError("profile: either a profile or keys")
        return self


class SigV4:
    """An `Authorizer`.  Credentials that expire are renewed by botocore, in a thread; with given
    keys only the first request is signed in one."""

    def __init__(self, credentials: AWSCredentials, *, service: str, region: str) -> None:
        self._config = credentials
        self._service = service
        self._region = region
        self._found: Any = None
        self._finding = threading.Lock()
        self._computes = False
        """Signing is computing only: botocore is imported, and keys that are given never expire."""

    async def authorize(self, request: Outgoing) -> Proof:
        if self._computes:
            return self._sign(request)
        proof = await anyio.to_thread.run_sync(self._sign, request, abandon_on_cancel=True)
        self._computes = self._config.access_key_id is not None
        return proof

    def _sign(self, request: Outgoing) -> Proof:
        with _worded():
            from botocore.auth import SigV4Auth
            from botocore.awsrequest import AWSRequest

            made = AWSRequest(
                method=request.method,
                url=request.url,
                data=request.content,
                headers=_signed(request.headers),
            )
            SigV4Auth(self._credentials(), self._service, self._region).add_auth(made)
        sent = {name.lower(): str(value) for name, value in made.headers.items()}
        return Proof(
            secret={name: sent[name] for name in _PROOF if name in sent},
            plain={"x-amz-date": sent["x-amz-date"]},
            once=("authorization",),
        )

    def _credentials(self) -> Any:
        """As they are now: botocore renews those that expire when it is asked for them."""
        from botocore.credentials import Credentials
        from botocore.session import Session

        config = self._config
        if config.access_key_id is not None and config.secret_access_key is not None:
            token = config.session_token
            return Credentials(
                config.access_key_id.get_secret_value(),
                config.secret_access_key.get_secret_value(),
                token.get_secret_value() if token is not None else None,
            )
        with self._finding:
            if self._found is None:
                self._found = Session(profile=config.profile).get_credentials()
        if self._found is None:
            raise Rejected(
                "no AWS credentials were found; set aws.access_key_id and aws.secret_access_key, "
                "or aws.profile, or sign in with the AWS command line",
                kind="auth",
                sent=False,
            )
        return self._found.get_frozen_credentials()


def _signed(headers: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k in _SIGNED or k.startswith("x-amz")}


@contextmanager
def _worded() -> Iterator[None]:
    """Raise ours from botocore's."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError as exc:
        words = "signing for AWS needs an extra: pip install 'lap-mcp[bedrock]'"
        raise Rejected(words, kind="invalid", sent=False) from exc
    try:
        yield
    except (BotoCoreError, ClientError) as exc:
        raise Unavailable(f"AWS credentials cannot be had: {exc}", sent=False) from exc
