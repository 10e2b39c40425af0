"""A LiteLLM proxy's agent gateway, made of what the real one (1.106.2) answers: it lists agents,
has their cards with its own address, wants a key, and passes A2A on to a real A2A agent.

The same cases run with the real proxy in front of the same agent (tier 2).
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from tests.runtimes.example_agent import example_agent

EXAMPLE = example_agent()
AGENT_ID = "dba36bffa5cab0f922d087a3aeb179f9d4e745df40b323e1b1471402848c8a3e"
CARD = {
    "name": "words",
    "description": "says words",
    "version": "1.0",
    "protocolVersion": "1.0",
    "capabilities": {"streaming": True},
    "defaultInputModes": ["text"],
    "defaultOutputModes": ["text"],
    "skills": [{"id": "echo", "name": "echo", "description": "says it again", "tags": []}],
}


def example_agent_app(url: str) -> tuple[Any, Any]:
    """A real A2A agent at this address, which asks for no token: its application, and itself."""
    agent = EXAMPLE.Agent()
    return EXAMPLE.build(url, agent=agent), agent


class Server:
    def __init__(self, *, key: str) -> None:
        self._behind, self.agent = example_agent_app("http://agent.example")
        self._key = key
        self.app = Starlette(
            routes=[
                Route("/v1/agents", self.agents),
                Route("/a2a/{agent}/.well-known/agent-card.json", self.card),
                Mount("/a2a/{agent}", self.call),
            ]
        )

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {self._key}":
            words = "Authentication Error, Invalid proxy server token passed."
            error = {"message": words, "type": "auth_error", "param": "None", "code": "401"}
            return JSONResponse({"error": error}, status_code=401)
        if request.path_params.get("agent", "words") not in ("words", AGENT_ID):
            return JSONResponse({"detail": "Agent not found"}, status_code=404)
        return None

    async def agents(self, request: Request) -> Response:
        one = {"agent_id": AGENT_ID, "agent_name": "words", "enabled": True, "spend": 1.5}
        off = {"agent_id": "off", "agent_name": "off", "enabled": False, "agent_card_params": {}}
        behind = {**CARD, "url": "http://10.0.0.1/"}
        listed = [{**one, "agent_card_params": behind}, off]
        return self._refused(request) or JSONResponse(listed)

    async def card(self, request: Request) -> Response:
        url = f"{request.base_url}a2a/{request.path_params['agent']}"
        return self._refused(request) or JSONResponse({**CARD, "url": url})

    async def call(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if refusal := self._refused(request):
            await refusal(scope, receive, send)
            return
        inner = {"path": "/", "raw_path": b"/", "root_path": "", "query_string": b""}
        await self._behind({**scope, **inner}, receive, send)
