"""n8n's management API: workflows that can be called, and executions of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from lap_runtimes.base import Ref
from lap_runtimes.errors import ProtocolError, Rejected
from lap_runtimes.n8n_config import Trigger, triggers_of
from lap_runtimes.vendor_http import Json, VendorHTTP, mapping, mappings, segment

LOOKED_AT = 20
"""Newest executions of a workflow among which a turn's is looked for."""
_API = "api/v1"
_PAGES = 20
"""Pages of 100 workflows that are looked through."""


class Management:
    def __init__(self, http: VendorHTTP) -> None:
        self._http = http

    async def workflows(self) -> AsyncGenerator[Json, None]:
        """Those that are active."""
        params = {"active": "true", "limit": "100"}
        for _ in range(_PAGES):
            url = self._http.url(f"{_API}/workflows")
            page = mapping(await self._http.json("GET", url, params=params))
            for workflow in mappings(page.get("data")):
                yield workflow
            if not page.get("nextCursor"):
                return
            params = {**params, "cursor": str(page["nextCursor"])}

    async def look(self, execution: str) -> Json:
        """An execution with its data."""
        url = self._http.url(f"{_API}/executions/{segment(execution, what='execution')}")
        return mapping(await self._http.json("GET", url, params={"includeData": "true"}))

    async def stop(self, execution: str) -> bool:
        """Whether it was still at work."""
        url = f"{_API}/executions/{segment(execution, what='execution')}/stop"
        try:
            await self._http.json("POST", self._http.url(url))
        except Rejected as exc:
            if exc.kind not in ("conflict", "not_found"):
                raise
            return False
        return True

    async def find(self, ref: Ref, *, active: bool = False) -> Json | None:
        """The execution that got this turn: n8n says no id of it, but keeps what triggered it.
        With `active` only among those that are still at work; None where there is none."""
        if ref.get("execution"):
            return await self.look(str(ref["execution"]))
        turn = str(ref.get("turn") or "")
        if not turn:
            return None
        workflow = await self._workflow(Trigger.parse(str(ref.get("agent") or "")))
        # Those that are running are listed only where one asks for them.
        running = await self._listed(workflow, {"status": "running"})
        others = [] if active else await self._listed(workflow, {})
        unread: list[Json] = []
        for each in [*running, *others]:
            try:
                one = await self.look(str(each.get("id") or ""))
            except ProtocolError:
                continue  # Somebody else's, larger than what is read.
            if turn in json.dumps(one.get("data")):
                return one
            if not one.get("data"):
                unread.append(one)
        if active and len(running) == len(unread) == 1:
            return unread[0]
        if active and unread:
            raise Rejected(
                "several executions of this workflow are running, and n8n does not show which of "
                "them is this turn's; stop it in n8n",
                kind="conflict",
                sent=False,
            )
        return None

    async def _listed(self, workflow: str, status: dict[str, str]) -> list[Json]:
        params = {"workflowId": workflow, "limit": str(LOOKED_AT), **status}
        found = await self._http.json("GET", self._http.url(f"{_API}/executions"), params=params)
        return mappings(mapping(found).get("data"))

    async def _workflow(self, trigger: Trigger) -> str:
        if trigger.workflow:
            return trigger.workflow
        async with aclosing(self.workflows()) as workflows:
            async for workflow in workflows:
                for each in triggers_of(workflow):
                    if (each.kind, each.path) == (trigger.kind, trigger.path):
                        return each.workflow
        raise Rejected(f"no active workflow has {trigger}", kind="not_found", sent=False)
