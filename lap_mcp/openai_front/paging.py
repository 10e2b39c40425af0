"""Lists in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from lap_mcp.store.front import PageOf

from .wire import Json, bad

T = TypeVar("T")


def wanted(query: Mapping[str, str], *, most: int = 100, usual: int = 20) -> PageOf:
    """Raises: ApiError."""
    try:
        limit = int(query.get("limit", usual))
    except ValueError as error:
        raise bad("limit has to be a number.", "limit") from error
    if not 1 <= limit <= most:
        raise bad(f"limit goes from 1 to {most}.", "limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise bad("order has to be asc or desc.", "order")
    return PageOf(after=query.get("after"), limit=limit, newest_first=order == "desc")


def listed(found: Sequence[Json], page: PageOf) -> Json:
    """`found` holds one more than the page, if there are more."""
    data = list(found[: page.limit])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > page.limit,
    }
