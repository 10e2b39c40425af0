"""Amazon Bedrock AgentCore for a test: a real agent made with `BedrockAgentCoreApp` behind what AWS
puts in front of it (addresses, signatures, session ids, its errors), the list of agents, and a
harness whose event stream is made of the service model in botocore.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import struct
import warnings
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote
from zlib import crc32

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

with warnings.catch_warnings():
    # Pydantic finds fault with how one of its models is configured.
    warnings.simplefilter("ignore", DeprecationWarning)
    from bedrock_agentcore import BedrockAgentCoreApp

PAUSE = 0.02
REQUEST_ID = "req-late"
"""The id of every call of a harness."""
REGION = "us-east-1"
ACCOUNT = "123456789012"
ARN = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/words-abcdefghij"
HARNESS = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:harness/words-abcdefghij"
BELOW = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/harness_words-abcdefghij"
_SESSION = "x-amzn-bedrock-agentcore-runtime-session-id"


def error(name: str, status: int, message: str) -> Response:
    headers = {"x-amzn-errortype": name, "x-amzn-requestid": "req-1"}
    return JSONResponse({"message": message}, status_code=status, headers=headers)


class Server:
    """`key` is what requests have to be signed with, `token` the OAuth token that is taken."""

    def __init__(self, *, key: str = "", token: str = "", streams: bool = True) -> None:
        self.notes: dict[str, list[str]] = defaultdict(list)
        self.calls: dict[str, str] = {}
        self.stopped: dict[str, int] = defaultdict(int)
        self.working: set[str] = set()
        self.cancelled: list[str] = []
        self.told: list[str] = []
        """Sessions that were to be stopped, whether anything ran in them or not."""
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self._key, self._token = key, token
        self.agent = self._agent(streams)
        self.app = Starlette(
            routes=[
                Route("/runtimes/", self.runtimes, methods=["POST"]),
                Route("/runtimes/{id}/", self.runtime, methods=["GET"]),
                Route("/runtimes/{arn:path}/invocations", self.invoke, methods=["POST"]),
                Route("/runtimes/{arn:path}/stopruntimesession", self.stop, methods=["POST"]),
                Route("/harnesses", self.harnesses, methods=["GET"]),
                Route("/harnesses/invoke", self.invoke_harness, methods=["POST"]),
                Route("/harnesses/{id}", self.harness, methods=["GET"]),
            ]
        )

    # The agent, inside its container

    def _agent(self, streams: bool) -> BedrockAgentCoreApp:
        agent = BedrockAgentCoreApp()
        logging.getLogger("bedrock_agentcore.app").setLevel(logging.CRITICAL)

        async def stream(payload: Any, context: Any) -> AsyncIterator[Any]:
            async for each in self._events(payload["prompt"], context.session_id):
                yield each

        async def whole(payload: Any, context: Any) -> Any:
            said = [each async for each in self._events(payload["prompt"], context.session_id)]
            return {"result": {"role": "assistant", "content": [{"text": "".join(said)}]}}

        agent.entrypoint(stream if streams else whole)
        # Else its loop, with its descriptors, begins at some time in the first call.
        agent._ensure_worker_loop()
        return agent

    async def _events(self, prompt: str, session: str) -> AsyncIterator[str]:
        skill, _, rest = prompt.partition(" ")
        before = self.stopped[session]
        if skill == "fail":
            yield "It began well. "
            raise RuntimeError(rest)
        if skill == "remember":
            self.notes[session].append(rest)
        words = {
            "remember": ["kept"],
            "recall": ["; ".join(self.notes[session]) or "nothing yet"],
            "big": ["x" * int(rest) if skill == "big" else ""],
            "slow": [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))]
            if skill == "slow"
            else [],
        }.get(skill, [f"you said: {prompt}"])
        for word in words:
            if self.stopped[session] != before:
                return
            yield word
            if skill == "slow":
                await asyncio.sleep(PAUSE)

    # What AWS puts in front

    async def _refused(self, request: Request) -> Response | None:
        body = await request.body()
        self.requests.append((request.url.path, dict(request.headers), body))
        given = request.headers.get("authorization", "")
        if self._token and given != f"Bearer {self._token}":
            return error("UnauthorizedException", 401, "the token was not accepted")
        if self._key and not signature_fits(request, body, self._key):
            return error("AccessDeniedException", 403, "the signature does not match")
        return None

    async def invoke(self, request: Request) -> Response:
        if refusal := await self._refused(request):
            return refusal
        session = request.headers.get(_SESSION, "")
        if not 33 <= len(session) <= 256:
            return error("ValidationException", 400, "runtimeSessionId is too short")
        if unquote(request.path_params["arn"]) != ARN or "%3A" not in raw_path(request):
            return error("ResourceNotFoundException", 404, "no such agent")
        self.working.add(session)
        return _Container(self.agent, request, await request.body())

    async def stop(self, request: Request) -> Response:
        if refusal := await self._refused(request):
            return refusal
        session = request.headers.get(_SESSION, "")
        token = json.loads(await request.body())["clientToken"]
        if not 33 <= len(token) <= 256:
            return error("ValidationException", 400, "clientToken is too short")
        if unquote(request.path_params["arn"]) not in (ARN, BELOW):
            return error("ResourceNotFoundException", 404, "no such agent")
        self.told.append(session)
        if session not in self.working:
            return error("ResourceNotFoundException", 404, "no such session")
        self.working.discard(session)
        self.stopped[session] += 1
        self.cancelled.append(session)
        return Response(status_code=200, headers={_SESSION: session})

    async def runtimes(self, request: Request) -> Response:
        if refusal := await self._refused(request):
            return refusal
        other = {"agentRuntimeArn": f"{ARN}x", "agentRuntimeId": "tools", "agentRuntimeName": "t"}
        listed = [
            {"agentRuntimeArn": ARN, "agentRuntimeId": "words", "agentRuntimeName": "words"},
            other,
            {**other, "status": "DELETING"},
        ]
        for each in listed:
            each |= {"agentRuntimeVersion": "1", "description": "says words", "lastUpdatedAt": "1"}
            each.setdefault("status", "READY")
        place = int(request.query_params.get("nextToken", "0"))
        more = {"nextToken": str(place + 1)} if place + 1 < len(listed) else {}
        return JSONResponse({"agentRuntimes": listed[place : place + 1], **more})

    async def runtime(self, request: Request) -> Response:
        if refusal := await self._refused(request):
            return refusal
        protocol = "MCP" if request.path_params["id"] == "tools" else "HTTP"
        return JSONResponse({"protocolConfiguration": {"serverProtocol": protocol}})

    # A harness

    async def harnesses(self, request: Request) -> Response:
        if refusal := await self._refused(request):
            return refusal
        listed = {"harnessId": "words-abcdefghij", "harnessName": "words", "arn": HARNESS}
        times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
        return JSONResponse({"harnesses": [{**listed, **times, "status": "READY"}]})

    async def harness(self, request: Request) -> Response:
        if refusal := await self._refused(request):
            return refusal
        below = {"agentCoreRuntimeEnvironment": {"agentRuntimeArn": BELOW}}
        return JSONResponse({"harness": {"arn": HARNESS, "environment": below}})

    async def invoke_harness(self, request: Request) -> Response:
        if refusal := await self._refused(request):
            return refusal
        session = request.headers.get(_SESSION, "")
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9-_]{32,99}", session):
            return error("ValidationException", 400, "runtimeSessionId does not fit")
        if request.query_params.get("harnessArn") != HARNESS:
            return error("ResourceNotFoundException", 404, "no such harness")
        (message,) = json.loads(await request.body())["messages"]
        self.working.add(session)
        stream = self._loop(message["content"], session)
        named = {"x-amzn-requestid": REQUEST_ID}
        kind = "application/vnd.amazon.eventstream"
        return StreamingResponse(stream, media_type=kind, headers=named)

    async def _loop(self, content: list[dict[str, Any]], session: str) -> AsyncIterator[bytes]:
        """The events of one call, as the service model names them."""
        results = [part["toolResult"] for part in content if "toolResult" in part]
        prompt = "".join(part.get("text", "") for part in content)
        if results:
            known = [r for r in results if self.calls.pop(r["toolUseId"], None)]
            assert known == results, "a result that nobody asked for"
            said = "".join(p.get("text", "") for r in results for p in r["content"])
            prompt = f"the answer is {said}"
        yield frame("messageStart", {"role": "assistant"})
        if prompt.startswith("break "):
            yield frame("contentBlockDelta", _text(0, "It began "))
            yield frame("contentBlockDelta", _text(0, "well. "))
            words = {"message": prompt.partition(" ")[2]}
            yield frame("validationException", words, kind="exception")
            return
        if prompt.startswith("fail "):
            yield frame("contentBlockDelta", _text(0, "It began well."))
            words = {"message": prompt.partition(" ")[2]}
            yield frame("runtimeClientError", words, kind="exception")
            return
        if prompt.startswith("tool "):
            for each in self._tool(prompt.partition(" ")[2]):
                yield each
        reason = "end_turn"
        if prompt.startswith("ask "):
            self.calls[f"tooluse_{len(self.calls)}_{session[:8]}"] = prompt
            use = {"toolUseId": list(self.calls)[-1], "name": "pick", "type": "tool_use"}
            start = {"contentBlockIndex": 0, "start": {"toolUse": use}}
            yield frame("contentBlockStart", start)
            for piece in ('{"what": ', '"color"}'):
                delta = {"contentBlockIndex": 0, "delta": {"toolUse": {"input": piece}}}
                yield frame("contentBlockDelta", delta)
            reason = "tool_use"
        else:
            async for word in self._events(prompt, session):
                yield frame("contentBlockDelta", _text(0, word))
        yield frame("contentBlockStop", {"contentBlockIndex": 0})
        yield frame("messageStop", {"stopReason": reason})
        usage = {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12}
        yield frame("metadata", {"usage": usage, "metrics": {"latencyMs": 10}})

    @staticmethod
    def _tool(name: str) -> list[bytes]:
        """A message in which the harness thinks and runs a tool of its own."""
        use = {"toolUseId": "t1", "name": name, "type": "tool_use"}
        about = {"contentBlockIndex": 1, "start": {"toolUse": use}}
        argument = {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"q": 1}'}}}
        result = {"contentBlockIndex": 0, "start": {"toolResult": {"toolUseId": "t1"}}}
        said = {"contentBlockIndex": 0, "delta": {"toolResult": [{"text": "found"}]}}
        thought = {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}
        usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
        return [
            frame("contentBlockDelta", thought),
            frame("contentBlockStop", {"contentBlockIndex": 0}),
            frame("contentBlockStart", about),
            frame("contentBlockDelta", argument),
            frame("contentBlockStop", {"contentBlockIndex": 1}),
            frame("messageStop", {"stopReason": "tool_use"}),
            frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
            frame("messageStart", {"role": "user"}),
            frame("contentBlockStart", result),
            frame("contentBlockDelta", said),
            frame("contentBlockStop", {"contentBlockIndex": 0}),
            frame("messageStop", {"stopReason": "tool_result"}),
            frame("messageStart", {"role": "assistant"}),
        ]


class _Container(Response):
    """The agent's own answer, as it streams; what it fails with before, as AWS says it."""

    def __init__(self, agent: Any, request: Request, body: bytes) -> None:
        super().__init__()
        self._agent, self._request, self._content = agent, request, body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        inner = {**scope, "path": "/invocations", "raw_path": b"/invocations", "root_path": ""}
        inner.pop("app", None)
        inner.pop("router", None)
        given = False

        async def request() -> Any:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": self._content, "more_body": False}
            return await receive()

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 500:
                message = {
                    **message,
                    "status": 424,
                    "headers": [*message["headers"], (b"x-amzn-errortype", b"RuntimeClientError")],
                }
            await send(message)

        await self._agent(inner, request, answer)


def _text(index: int, text: str) -> dict[str, Any]:
    return {"contentBlockIndex": index, "delta": {"text": text}}


def frame(name: str, body: Any, *, kind: str = "event") -> bytes:
    """One message of an AWS event stream."""
    headers = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    return message(headers, json.dumps(body).encode())


def message(headers: dict[str, str], payload: bytes) -> bytes:
    raw = b"".join(
        bytes([len(n)]) + n + b"\7" + struct.pack("!H", len(v)) + v
        for n, v in ((name.encode(), value.encode()) for name, value in headers.items())
    )
    return framed(raw, payload)


def framed(raw_headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack("!II", 16 + len(raw_headers) + len(payload), len(raw_headers))
    begun = prelude + struct.pack("!I", crc32(prelude)) + raw_headers + payload
    return begun + struct.pack("!I", crc32(begun))


def raw_path(request: Request) -> str:
    """The path as it was on the wire."""
    return bytes(request.scope["raw_path"]).partition(b"?")[0].decode("ascii")


def signature_fits(request: Request, body: bytes, key: str) -> bool:
    """Signature Version 4, computed again from what arrived."""
    pattern = (
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/bedrock-agentcore/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
    )
    found = re.fullmatch(pattern, request.headers.get("authorization", ""))
    if found is None or found[1] != key or found[3] != REGION:
        return False
    named = found[4].split(";")
    if not {"host", "x-amz-date"} <= set(named) or (
        _SESSION in request.headers and _SESSION not in named
    ):
        return False
    pairs = sorted(
        tuple(quote(unquote(half), safe="-_.~") for half in pair.partition("=")[::2])
        for pair in request.scope["query_string"].decode().split("&")
        if pair
    )
    canonical = "\n".join(
        [
            request.method,
            quote(raw_path(request), safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{request.headers[name].strip()}" for name in named),
            "",
            found[4],
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{found[2]}/{REGION}/bedrock-agentcore/aws4_request"
    date = request.headers["x-amz-date"]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signed = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}"
    secret = f"AWS4{key}".encode()
    for part in (*scope.split("/"), signed):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(secret.hex(), found[5])
