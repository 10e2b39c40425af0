"""Looking up a host that only an agent named: all of its addresses have to be public."""

from __future__ import annotations

import anyio

from lap_runtimes.errors import Rejected, Unavailable
from lap_runtimes.origin import is_public


async def public_address(host: str, port: int) -> str:
    """One address of a host all of whose addresses are public, to be connected to as it is, so that
    a second look-up cannot say something else."""
    try:
        found = await anyio.getaddrinfo(host, port)
    except OSError as exc:
        raise Unavailable(f"{host}: no such host", sent=False) from exc
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise Rejected(
            f"{host} is not a public address; name its origin in allow_origins to allow it",
            kind="invalid",
            sent=False,
        )
    return addresses[0]
