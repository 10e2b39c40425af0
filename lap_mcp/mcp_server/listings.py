"""Handlers for prompts, resources, completion and subscriptions, over all providers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import mcp.types as t
from mcp.shared.exceptions import MCPError

from lap_mcp.control.services import Services
from lap_mcp.errors import Invalid, LapError, NotFound

from . import sdk
from .notify import Notifier
from .providers import PromptProvider, Request, ResourceProvider, paged
from .text import clean

_PROMPTS_PAGE: Final = 100
_COMPLETIONS: Final = 100
T = TypeVar("T")


class Listings:
    """What a client can browse.  `LapError` becomes a protocol error in words."""

    def __init__(
        self,
        *,
        services: Callable[[], Awaitable[Services]],
        resources: Sequence[ResourceProvider],
        prompts: Sequence[PromptProvider],
        notifier: Notifier,
    ) -> None:
        self._services = services
        self._resources = resources
        self._prompts = prompts
        self._notifier = notifier

    def _request(self, ctx: sdk.Ctx, params: t.InputResponseRequestParams | None = None) -> Request:
        return Request(
            ctx=ctx,
            caller=sdk.caller_of(ctx),
            open_services=self._services,
            input_responses=params.input_responses if params else None,
            request_state=params.request_state if params else None,
        )

    async def resources(
        self, ctx: sdk.Ctx, params: t.PaginatedRequestParams | None
    ) -> t.ListResourcesResult:
        request = self._request(ctx)
        lists = [partial(provider.resources, request) for provider in self._resources]
        found, cursor = await _worded(paged(lists, params.cursor if params else None))
        return t.ListResourcesResult(resources=found, next_cursor=cursor)

    async def templates(
        self, ctx: sdk.Ctx, params: t.PaginatedRequestParams | None
    ) -> t.ListResourceTemplatesResult:
        found = [item for provider in self._resources for item in provider.templates()]
        return t.ListResourceTemplatesResult(resource_templates=found)

    async def read(
        self, ctx: sdk.Ctx, params: t.ReadResourceRequestParams
    ) -> t.ReadResourceResult | t.InputRequiredResult:
        uri = str(params.uri)
        provider = self._provider(uri)
        if provider is None:
            raise sdk.resource_not_found(ctx, uri, "There is no such resource.")
        try:
            return await provider.read(self._request(ctx, params), uri)
        except NotFound as error:
            raise sdk.resource_not_found(ctx, uri, str(error)) from error
        except LapError as error:
            raise _protocol_error(error) from error

    def _provider(self, uri: str) -> ResourceProvider | None:
        return next((p for p in self._resources if p.owns(uri)), None)

    async def _may_watch(self, ctx: sdk.Ctx, uri: str) -> bool:
        provider = self._provider(uri)
        return provider is not None and await provider.may_watch(self._request(ctx), uri)

    async def subscribe(self, ctx: sdk.Ctx, params: t.SubscribeRequestParams) -> t.EmptyResult:
        """Handshake era.  Foreign and missing are the same answer."""
        uri = str(params.uri)
        if not await self._may_watch(ctx, uri):
            raise sdk.resource_not_found(ctx, uri, "There is no such resource.")
        if not self._notifier.watch(sdk.Peer(ctx), uri):
            raise sdk.invalid_params("This connection watches too many resources already.")
        return t.EmptyResult()

    async def unsubscribe(self, ctx: sdk.Ctx, params: t.UnsubscribeRequestParams) -> t.EmptyResult:
        self._notifier.unwatch(sdk.Peer(ctx), str(params.uri))
        return t.EmptyResult()

    async def listen(
        self, ctx: sdk.Ctx, params: t.SubscriptionsListenRequestParams
    ) -> t.SubscriptionsListenResult:
        """2026-07-28.  Resources that the caller may not read are left out of the filter, and so
        of the acknowledgement."""
        wanted = params.notifications.resource_subscriptions or []
        allowed = [str(uri) for uri in wanted if await self._may_watch(ctx, str(uri))]
        filtered = params.notifications.model_copy(
            update={"resource_subscriptions": allowed or None}
        )
        return await self._notifier.listen(
            ctx, params.model_copy(update={"notifications": filtered})
        )

    async def list_prompts(
        self, ctx: sdk.Ctx, params: t.PaginatedRequestParams | None
    ) -> t.ListPromptsResult:
        request = self._request(ctx)
        lists = [partial(_prompt_page, provider, request) for provider in self._prompts]
        found, cursor = await _worded(paged(lists, params.cursor if params else None))
        return t.ListPromptsResult(prompts=found, next_cursor=cursor)

    async def get_prompt(
        self, ctx: sdk.Ctx, params: t.GetPromptRequestParams
    ) -> t.GetPromptResult | t.InputRequiredResult:
        request = self._request(ctx, params)
        for provider in self._prompts:
            found = await _worded(provider.get(request, params.name, params.arguments or {}))
            if found is not None:
                return found
        raise sdk.invalid_params(f"There is no prompt `{params.name[:100]}`.")

    async def complete(self, ctx: sdk.Ctx, params: t.CompleteRequestParams) -> t.CompleteResult:
        values = await _worded(self._candidates(self._request(ctx), params))
        typed = params.argument.value.lower()
        fitting = [value for value in values if value.lower().startswith(typed)]
        shown = fitting[:_COMPLETIONS]
        completion = t.Completion(
            values=shown, total=len(fitting), has_more=len(shown) < len(fitting)
        )
        return t.CompleteResult(completion=completion)

    async def _candidates(self, request: Request, params: t.CompleteRequestParams) -> Sequence[str]:
        argument = params.argument
        known = (params.context.arguments if params.context else None) or {}
        if isinstance(params.ref, t.PromptReference):
            for provider in self._prompts:
                found = await provider.complete(
                    request, params.ref.name, argument.name, argument.value
                )
                if found is not None:
                    return found
            raise Invalid(f"There is no prompt `{params.ref.name[:100]}`.")
        template = params.ref.uri
        for source in self._resources:
            if any(item.uri_template == template for item in source.templates()):
                return await source.complete(
                    request, template, argument.name, argument.value, known
                )
        raise Invalid(f"There is no resource template `{template[:200]}`.")


async def _prompt_page(
    provider: PromptProvider, request: Request, cursor: str | None
) -> tuple[Sequence[t.Prompt], str | None]:
    names = [p for p in await provider.prompts(request) if cursor is None or p.name > cursor]
    shown = names[:_PROMPTS_PAGE]
    return shown, shown[-1].name if len(names) > len(shown) else None


async def _worded(work: Awaitable[T]) -> T:
    try:
        return await work
    except LapError as error:
        raise _protocol_error(error) from error


def _protocol_error(error: LapError) -> MCPError:
    if isinstance(error, Invalid | NotFound):
        return sdk.invalid_params(clean(str(error)))
    return MCPError(code=t.INTERNAL_ERROR, message=clean(str(error)))
