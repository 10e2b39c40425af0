"""Every adapter in every configuration that changes how it behaves, each with a real server.

A kind of its own file, `case_<kind>.py`, is added to `CASES` at the end of this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes import case_acp, case_mcp, case_opencode, http_server, responses_server
from tests.runtimes.bench import Case
from tests.runtimes.case_bedrock_agentcore import AGENTCORE_CASES
from tests.runtimes.case_claude_managed_agents import CASES_CLAUDE
from tests.runtimes.case_cursor import CASES as CURSOR
from tests.runtimes.case_databricks import DATABRICKS_CASES
from tests.runtimes.case_elastic import CASES as ELASTIC
from tests.runtimes.case_gemini import CASES_GEMINI
from tests.runtimes.case_langgraph import LANGGRAPH_CASES
from tests.runtimes.case_litellm import LITELLM_CASES
from tests.runtimes.case_litellm_agent_platform import CASES_LAP_PLATFORM
from tests.runtimes.case_n8n import CASES as N8N
from tests.runtimes.case_openai_agents import CASES_OPENAI_AGENTS
from tests.runtimes.case_snowflake import CASES as SNOWFLAKE
from tests.runtimes.example_agent import example_agent


def _a2a(**options: Any) -> Callable[[str], tuple[Any, Any, Callable[[], int]]]:
    def make(url: str) -> tuple[Any, Any, Callable[[], int]]:
        example = example_agent()
        agent = example.Agent()
        card = example.card(url, streaming=options.get("streaming", True))
        keep = options.get("binding")
        version = options.get("version")
        kept = [i for i in card.supported_interfaces if keep in (None, i.protocol_binding)]
        del card.supported_interfaces[:]
        for interface in kept:
            interface.protocol_version = version or interface.protocol_version
            card.supported_interfaces.append(interface)
        app = example.build(url, agent=agent, agent_card=card, token=canary("a2a"))
        return app, agent, lambda: len(agent.cancelled)

    return make


def _responses(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = responses_server.Server(token=canary("responses"))
    return server.app, server, lambda: len(server.cancelled)


def _http(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = http_server.Server()
    return server.app, server, lambda: len(server.cancelled)


_BODY = {"prompt": "${prompt}", "session": "${session_id}", "turn": "${turn_id}"}
_USED = {"input_tokens": "used.0", "output_tokens": "used.1"}
_CANCEL = {"method": "DELETE", "path": "runs/${ref.run}"}

A2A = {"kind": "a2a", "ask": "ask color?", "ask_kind": "input", "file": "file a.txt body of it"}
RESPONSES = {
    "kind": "openai_responses",
    "slot": "responses",
    "app": _responses,
    "path": "/v1",
    "ask": "ask /etc/passwd",
    "ask_kind": "approval",
    "file": "file a.csv",
}
HTTP = {"kind": "http", "app": _http, "path": "/agent"}

CASES = [
    Case(id="a2a-jsonrpc", app=_a2a(binding="JSONRPC"), **A2A),  # type: ignore[arg-type]
    Case(id="a2a-rest", app=_a2a(binding="HTTP+JSON"), **A2A),  # type: ignore[arg-type]
    Case(
        id="a2a-polled",
        app=_a2a(streaming=False),
        settings={"poll_interval": 0.02},
        one_connection=False,
        **A2A,  # type: ignore[arg-type]
    ),
    Case(id="a2a-0.3", app=_a2a(binding="JSONRPC", version="0.3.0"), **A2A),  # type: ignore[arg-type]
    Case(id="responses", settings={"model": "words"}, **RESPONSES),  # type: ignore[arg-type]
    Case(
        id="responses-conversation",
        settings={"model": "words", "state": "conversation"},
        **RESPONSES,  # type: ignore[arg-type]
    ),
    Case(
        id="responses-background",
        settings={"model": "words", "background": True},
        **RESPONSES,  # type: ignore[arg-type]
    ),
    Case(
        id="responses-polled",
        settings={"model": "words", "background": True, "stream": False, "poll_interval": 0.02},
        **RESPONSES,  # type: ignore[arg-type]
    ),
    Case(
        id="responses-whole",
        settings={"model": "words", "stream": False},
        **RESPONSES,  # type: ignore[arg-type]
    ),
    Case(
        id="responses-resend",
        settings={"model": "words", "state": "resend"},
        **{**RESPONSES, "ask": None, "ask_kind": ""},  # type: ignore[arg-type]
    ),
    Case(
        id="http-alone",
        settings={
            "request": {"path": "json", "body": {"prompt": "${prompt}"}},
            "answer": {"text": "output.text"},
        },
        **HTTP,  # type: ignore[arg-type]
    ),
    Case(
        id="http-json",
        settings={
            "request": {"path": "json", "body": _BODY},
            "answer": {"text": "output.text", "ref": {"run": "run"}, "usage": _USED},
        },
        **HTTP,  # type: ignore[arg-type]
    ),
    Case(
        id="http-ndjson",
        settings={
            "request": {"path": "ndjson", "body": _BODY},
            "answer": {
                "form": "ndjson",
                "delta": "content",
                "delta_when": "type=item",
                "done": "type=end",
                "ref": {"run": "run"},
                "usage": _USED,
            },
            "cancel_request": _CANCEL,
            "check_path": "ping",
        },
        **HTTP,  # type: ignore[arg-type]
    ),
    Case(
        id="http-sse",
        settings={
            "request": {"path": "sse", "body": _BODY},
            "answer": {
                "form": "sse",
                "delta": "text",
                "done": "@event=done",
                "ref": {"run": "run"},
                "usage": _USED,
            },
            "cancel_request": _CANCEL,
            "attach_request": {"method": "GET", "path": "runs/${ref.run}/events"},
            "on_disconnect": "continues",
        },
        **HTTP,  # type: ignore[arg-type]
    ),
    Case(
        id="http-polled",
        settings={
            "request": {"path": "jobs", "body": _BODY},
            "answer": {
                "text": "output.text",
                "done": "status=done",
                "ref": {"run": "run"},
                "usage": _USED,
            },
            "poll_request": {"method": "GET", "path": "jobs/${ref.run}"},
            "poll_interval": 0.02,
            "cancel_request": _CANCEL,
            "on_disconnect": "continues",
        },
        one_connection=False,
        **HTTP,  # type: ignore[arg-type]
    ),
    *CURSOR,
    *SNOWFLAKE,
    *ELASTIC,
    *N8N,
    *CASES_CLAUDE,
    *CASES_GEMINI,
    *CASES_LAP_PLATFORM,
    *CASES_OPENAI_AGENTS,
    *AGENTCORE_CASES,
    *DATABRICKS_CASES,
    *LANGGRAPH_CASES,
    *LITELLM_CASES,
    *case_acp.CASES,
    *case_mcp.CASES,
    *case_opencode.CASES,
]
