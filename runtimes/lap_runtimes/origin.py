"""Which addresses a runtime's traffic may go to, and which of them see its credential.  Pure rules:
nothing here resolves or connects.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from lap_runtimes.errors import Rejected

Standing = Literal["home", "named", "public"]
"""`home`: the origin of the configured `url`, the only one that gets the credential.  `named`: the
operator's file allows it.  `public`: allowed by `*`, if it resolves to public addresses only."""

_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> str:
    """`scheme://host:port`, lower case, port always written.  Raises `ValueError`."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in _PORTS or not host:
        raise ValueError(f"not an http or https address: {url[:200]!r}")
    if any(ord(letter) <= 32 for letter in url) or "\\" in url:
        raise ValueError("an address with spaces, control characters or backslashes")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{parts.port or _PORTS[parts.scheme]}"


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not loopback, private, link-local (and so
    no cloud metadata), shared, multicast or reserved, also not inside an IPv6 form of IPv4."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True, slots=True)
class OriginRules:
    home: str
    named: frozenset[str] = frozenset()
    public: bool = False

    @classmethod
    def of(cls, url: str, allow_origins: Iterable[str] = ()) -> OriginRules:
        """`allow_origins` holds origins, and `*` for any public address.  Raises `ValueError`."""
        allowed = list(allow_origins)
        named = frozenset(origin_of(each) for each in allowed if each != "*")
        return cls(home=origin_of(url), named=named, public="*" in allowed)

    @property
    def encrypted(self) -> bool:
        """Whether an https address may be gone to at all."""
        return self.public or any(each.startswith("https:") for each in (self.home, *self.named))

    def standing(self, url: str, *, whence: str, reads: bool = True) -> Standing:
        """`whence` says in words where the address came from ("its agent card"); `reads`: nothing
        goes there, as a prompt would.  Raises `Rejected` where nothing of the operator's file
        admits it."""
        try:
            origin = origin_of(url)
        except ValueError as exc:
            raise Rejected(f"{whence} names {exc}", kind="invalid", sent=False) from exc
        if origin == self.home:
            return "home"
        if origin in self.named:
            return "named"
        if self.public and reads:
            return "public"
        raise Rejected(
            f"{whence} leads to {origin}, but this runtime is configured for {self.home}; "
            f'nothing was sent there. If that is right, add allow_origins = ["{origin}"] '
            "(it will not get the credential), or put the right address in url",
            kind="invalid",
            sent=False,
        )
