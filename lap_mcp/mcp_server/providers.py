"""The seams for prompts and resources, and how several providers make one paged list.

A cursor is the number of a provider and that provider's own cursor: `2:ses_…`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.errors import Invalid

from .sdk import Ctx
from .toolset import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request for prompts, resources or completion."""

    ctx: Ctx
    caller: Caller
    open_services: Callable[[], Awaitable[Services]]
    input_responses: Mapping[str, object] | None = None
    request_state: str | None = None

    async def services(self) -> Services:
        return await self.open_services()


class ResourceProvider(Protocol):
    """Some resources.  `cursor` is the provider's own; each list returns the next one or `None`."""

    async def resources(
        self, request: Request, cursor: str | None
    ) -> tuple[Sequence[t.Resource], str | None]: ...

    def templates(self) -> Sequence[t.ResourceTemplate]: ...

    def owns(self, uri: str) -> bool:
        """Whether this provider answers for the URI, whatever the answer."""
        ...

    async def read(
        self, request: Request, uri: str
    ) -> t.ReadResourceResult | t.InputRequiredResult:
        """Raises: NotFound, LapError."""
        ...

    async def may_watch(self, request: Request, uri: str) -> bool:
        """Whether this caller may be told of changes of the URI."""
        ...

    async def complete(
        self, request: Request, template: str, argument: str, value: str, known: Mapping[str, str]
    ) -> Sequence[str]: ...


class PromptProvider(Protocol):
    """Some prompts, sorted by name."""

    async def prompts(self, request: Request) -> Sequence[t.Prompt]: ...

    async def get(
        self, request: Request, name: str, arguments: Mapping[str, str]
    ) -> t.GetPromptResult | t.InputRequiredResult | None:
        """`None`: no prompt of this provider.  Raises: LapError."""
        ...

    async def complete(
        self, request: Request, name: str, argument: str, value: str
    ) -> Sequence[str] | None:
        """`None`: no prompt of this provider."""
        ...


T = TypeVar("T")


async def paged(
    lists: Sequence[Callable[[str | None], Awaitable[tuple[Sequence[T], str | None]]]],
    cursor: str | None,
) -> tuple[list[T], str | None]:
    """One page: what the provider of the cursor gives, and the next ones up to the first that
    has more.  Raises: Invalid for a cursor that is not ours."""
    number, inner = _parse(cursor, len(lists))
    items: list[T] = []
    while number < len(lists):
        found, inner = await lists[number](inner)
        items += found
        if inner is not None:
            return items, f"{number}:{inner}"
        number += 1
    return items, None


def _parse(cursor: str | None, count: int) -> tuple[int, str | None]:
    if cursor is None:
        return 0, None
    number, separator, inner = cursor.partition(":")
    if not separator or not number.isdecimal() or int(number) >= count:
        raise Invalid("This cursor is not one of ours.", remedy="Start again without a cursor.")
    return int(number), inner
