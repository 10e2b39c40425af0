"""The 13 defects that were measured in LiteLLM 1.109.1 (November 2026), as cases: one scripted
model, ours and theirs, judged by the same words.

Ours is `lap-mcp serve` with its Docker sandbox; theirs the SDK, whose sandbox runs code for real.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
import docker
from openai import AsyncOpenAI

from benchmarks.containers import count_of, docker_left
from benchmarks.report import Finding, Report
from benchmarks.surroundings import Place
from tests.openai_front.model import Call, Code, Model, Say, Turn, Wait, playing

from . import serving

TOOL: Final = {"type": "code_interpreter", "container": {"type": "auto"}}
WEATHER: Final = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {}},
}
INCLUDE: Final = ["code_interpreter_call.outputs"]
FIGURE: Final = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"
INTERNAL: Final = "litellm_code_execution"


@dataclass
class Observed:
    """What came of a case, wherever it was run."""

    answer: Mapping[str, Any]
    asked: Sequence[Mapping[str, Any]]
    """What the model was asked, round by round."""
    events: Sequence[tuple[str, float]] = ()
    opened: int = 1
    """Sandboxes that were opened."""
    left: int = 0
    """Sandboxes that nobody can reach any more and that still run."""
    began: float = 0.0
    """When code first ran, at the latest."""
    turn_over: float = 0.0
    """When the model had written its first turn."""
    items: Sequence[Mapping[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.items = self.answer.get("output") or ()

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [item for item in self.items if item.get("type") == kind]

    @property
    def calls(self) -> list[Mapping[str, Any]]:
        return self.of("code_interpreter_call")

    @property
    def leaked(self) -> bool:
        return any(item.get("name") == INTERNAL for item in self.of("function_call"))

    @property
    def told(self) -> str:
        """What the model was told in the last round."""
        items = self.asked[-1].get("input")
        outputs = [i for i in items if isinstance(i, dict)] if isinstance(items, list) else []
        found = [i["output"] for i in outputs if i.get("type") == "function_call_output"]
        return json.dumps(found, ensure_ascii=False)


Judged = tuple[bool, str]


@dataclass(frozen=True)
class Case:
    name: str
    turns: Sequence[Turn]
    judge: Callable[[Observed], Judged]
    endless: bool = False
    sandbox: str = "works"
    """`absent`: it cannot be had; `breaks`: it goes away while code runs."""
    body: Mapping[str, Any] = field(default_factory=dict)
    at_once: int = 0
    """So many requests of one conversation at the same time."""


def _order(seen: Observed) -> Judged:
    codes = [str(call.get("code")) for call in seen.calls]
    return codes == ["a = 1", "print(a)"], " then ".join(codes)


def _endless(seen: Observed) -> Judged:
    shown = f"status {seen.answer.get('status')}, {len(seen.calls)} calls shown"
    if seen.leaked:
        return False, f"{shown}, its internal function call leaked"
    return seen.answer.get("status") == "incomplete" and bool(seen.calls), shown


def _repeated(seen: Observed) -> Judged:
    ran = [call for call in seen.calls if "same" in json.dumps(call.get("outputs"))]
    leak = ", its internal function call leaked" if seen.leaked else ""
    return len(ran) == 2 and not leak, f"{len(ran)} of 2 outputs{leak}"


def _failure(seen: Observed) -> Judged:
    if seen.leaked:
        return False, "status 200, its internal function call leaked, nobody is told"
    status = ", ".join(str(call.get("status")) for call in seen.calls)
    model = len(seen.asked) > 1 and len(seen.told) > 10
    words = f"call {status or 'not shown'}, model {'' if model else 'not '}told"
    return status in ("failed", "incomplete") and model, words


def _raised(seen: Observed) -> Judged:
    wanted = {"stdout": "before", "stderr": "careful", "traceback": "Traceback"}
    lost = [name for name, word in wanted.items() if word not in seen.told]
    return not lost, f"the model misses {', '.join(lost)}" if lost else "the model is told all"


def _shown(seen: Observed) -> Judged:
    value = "42" in seen.told
    kinds = [out.get("type") for call in seen.calls for out in call.get("outputs") or ()]
    words = f"value {'' if value else 'not '}told, outputs {', '.join(kinds) or 'empty'}"
    return value and "image" in kinds, words


def _mixed(seen: Observed) -> Judged:
    theirs = [c for c in seen.of("function_call") if c.get("name") == "get_weather"]
    words = f"get_weather {'returned' if theirs else 'dropped'}, {len(seen.calls)} code call"
    return bool(theirs) and bool(seen.calls), words


def _usage(seen: Observed) -> Judged:
    usage = seen.answer.get("usage") or {}
    found = usage.get("input_tokens"), usage.get("output_tokens")
    return found == (30, 15), f"{found[0]} in, {found[1]} out (30 and 15 were used)"


def _streamed(seen: Observed) -> Judged:
    kinds = [kind.lower() for kind, _ in seen.events]
    ours = sum("code_interpreter_call" in kind for kind in kinds)
    live = bool(seen.events) and seen.events[0][1] < seen.turn_over
    words = (
        f"{ours} events of the tool, first event {'before' if live else 'after'} the model ended"
    )
    return ours > 3 and live, words


def _visible(seen: Observed) -> Judged:
    message = seen.answer["choices"][0]["message"]
    found = "print(6 * 7)" in json.dumps(message)
    return found, f"code and output {'in' if found else 'not in'} the message"


def _shared(seen: Observed) -> Judged:
    words = f"{seen.opened} opened, {seen.left} of them never closed"
    return seen.opened == 1 and seen.left == 0, words


def _early(seen: Observed) -> Judged:
    early = seen.began < seen.turn_over
    return early, f"code first ran {'before' if early else 'after'} the model had written its turn"


CASES: Final = (
    Case("1 two steps come in order", [[Code("a = 1")], [Code("print(a)")], [Say("1")]], _order),
    Case("2 a model that never stops calling", [[Code("print(1)")]], _endless, endless=True),
    Case(
        "3 the same code twice",
        [[Code("print('same')")], [Code("print('same')")], [Say("ok")]],
        _repeated,
    ),
    Case("4 a sandbox that cannot be had", [[Code("1")], [Say("no")]], _failure, sandbox="absent"),
    Case(
        "5 a sandbox that goes away",
        [[Code("import time; time.sleep(60)")], [Say("no")]],
        _failure,
        sandbox="breaks",
    ),
    Case(
        "6 output, then an exception",
        [
            [Code("import sys; print('before'); print('careful', file=sys.stderr); 1 / 0")],
            [Say("it failed")],
        ],
        _raised,
    ),
    Case("7 a value and a figure", [[Code(f"{FIGURE}\n6 * 7")], [Say("42")]], _shown),
    Case(
        "8 the client's function in the same turn",
        [[Code("print(1)"), Call("get_weather")], [Say("sunny")]],
        _mixed,
        body={"tools": [TOOL, WEATHER]},
    ),
    Case(
        "9 usage over three rounds", [[Code("print(1)")], [Code("print(2)")], [Say("ok")]], _usage
    ),
    Case(
        "10 a stream",
        [[Code("print(1)"), Wait(0.3)], [Say("ok")]],
        _streamed,
        body={"stream": True},
    ),
    Case(
        "11 Chat Completions show the code",
        [[Code("print(6 * 7)")], [Say("42")]],
        _visible,
        body={"messages": [{"role": "user", "content": "go"}]},
    ),
    Case(
        "12 five requests of one conversation at once",
        [*[[Code("print(1)")]] * 5, *[[Say("ok")]] * 5],
        _shared,
        at_once=5,
    ),
    Case(
        "13 several calls in one turn",
        [
            [Code("print(1)"), Wait(2), Code("print(2)"), Wait(2), Code("print(3)")],
            [Say("ok")],
        ],
        _early,
        body={"stream": True},
    ),
)


class Watched(Model):
    """Knows when each turn of it was over."""

    def __init__(self, case: Case) -> None:
        super().__init__(*case.turns, endless=case.endless)
        self.over: list[float] = []

    def _name(self, body: Any, part: Code | Call) -> str:
        """Whatever the interpreter is called."""
        if isinstance(part, Call):
            return part.name
        tools = [tool.get("function", tool) for tool in body["tools"]]
        return next(str(tool["name"]) for tool in tools if tool["name"] != "get_weather")

    def app(self) -> Any:
        inner = super().app()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await inner(scope, receive, send)
            if scope["type"] == "http":
                self.over.append(time.time())

        return app


class Side(Protocol):
    async def __call__(self, case: Case, model: Watched) -> Observed: ...


def _body(case: Case, **more: Any) -> dict[str, Any]:
    chat = "messages" in case.body
    usual = {} if chat else {"input": "go", "include": INCLUDE}
    return {"model": "m", "tools": [TOOL], **usual, **case.body, **more}


class Ours:
    def __init__(self, place: Place) -> None:
        self._place = place

    async def __call__(self, case: Case, model: Watched) -> Observed:
        """Each case has a server of its own, so that its sandboxes can be counted."""
        environ = {}
        if case.sandbox == "absent":
            environ["DOCKER_HOST"] = f"unix://{self._place.folder}/nobody.sock"
        name = f"case-{case.name.split()[0]}"
        async with AsyncExitStack() as stack:
            served = serving.ours(self._place, model.url, name, environ=environ)
            server = await stack.enter_async_context(served)
            client = AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0)
            await stack.enter_async_context(client)
            if case.at_once:
                return await self._several(case, model, server, client)
            if case.sandbox == "breaks":
                tasks = await stack.enter_async_context(anyio.create_task_group())
                tasks.start_soon(self._kill_one, server)
            return await self._one(case, model, client)

    async def _one(self, case: Case, model: Watched, client: AsyncOpenAI) -> Observed:
        body, create = _body(case), client.responses.create
        if "messages" in body:
            create = client.chat.completions.create  # type: ignore[assignment]
        said: Any = await create(**body)
        events: list[tuple[str, float]] = []
        if body.get("stream"):
            async for event in said:
                events.append((event.type, time.time()))
                last = event
            said = last.response
        ran = [at for kind, at in events if kind.endswith("interpreter_call.completed")]
        answer = said.model_dump(mode="json")
        began = ran[0] if ran else 0.0
        return Observed(answer, model.asked, events, began=began, turn_over=model.over[0])

    async def _several(
        self, case: Case, model: Watched, server: serving.Served, client: AsyncOpenAI
    ) -> Observed:
        """A conversation is a container here."""
        container = await client.containers.create(name="shared")
        tools = [{"type": "code_interpreter", "container": container.id}]
        body = _body(case, tools=tools)
        async with anyio.create_task_group() as tasks:
            for _ in range(case.at_once):
                tasks.start_soon(lambda: client.responses.create(**body))
        opened = await anyio.to_thread.run_sync(count_of, server.home)
        await client.containers.delete(container.id)
        left = await anyio.to_thread.run_sync(count_of, server.home)
        return Observed({}, model.asked, opened=opened, left=left)

    @staticmethod
    async def _kill_one(server: serving.Served) -> None:
        """Behind everybody's back, while code runs."""
        while not await anyio.to_thread.run_sync(count_of, server.home):  # noqa: ASYNC110
            await anyio.sleep(0.1)
        await anyio.sleep(1.0)
        await anyio.to_thread.run_sync(_killed, server)


def _killed(server: serving.Served) -> None:
    client = docker.from_env(timeout=30)
    try:
        for each in client.api.containers(filters={"label": "lap.instance"}):
            if docker_left(each["Labels"]["lap.instance"]) and _is_of(each, server):
                client.api.kill(each["Id"])
    finally:
        client.close()


def _is_of(container: Mapping[str, Any], server: serving.Served) -> bool:
    import hashlib

    instance = hashlib.sha256(str(server.home).encode()).hexdigest()[:16]
    return bool(container["Labels"]["lap.instance"] == instance)


class Theirs:
    def __init__(self, peer: serving.Interception) -> None:
        self._peer = peer

    async def __call__(self, case: Case, model: Watched) -> Observed:
        body = _body(case, **({"metadata": {"session_id": "one"}} if case.at_once else {}))
        order = {"url": model.url, "body": body, "sandbox": case.sandbox, "at_once": case.at_once}
        found = await self._peer.ask(**order)
        kept = 1 if case.at_once else 0
        return Observed(
            found["answer"],
            model.asked,
            [(kind, at) for kind, at in found["events"]],
            opened=found["created"],
            left=found["created"] - found["deleted"] - kept,
            began=(found["begun"] or [0.0])[0],
            turn_over=model.over[0],
        )


async def _judged(case: Case, side: Callable[[Case, Watched], Awaitable[Observed]]) -> Judged:
    model = Watched(case)
    async with playing(model):
        with anyio.fail_after(120):
            try:
                return case.judge(await side(case, model))
            except RuntimeError as error:
                return False, f"it raised {str(error)[:100]}"


async def cases(place: Place, n: int) -> list[Report]:
    """`n` does not matter: a case is right or wrong."""
    async with AsyncExitStack() as stack:
        theirs: Theirs | None = None
        if place.peers:
            peer = await stack.enter_async_context(serving.interception(place))
            theirs = Theirs(peer)
        findings = []
        for case in CASES:
            right, words = await _judged(case, Ours(place))
            peers = {} if theirs is None else {"LiteLLM": await _judged(case, theirs)}
            findings.append(Finding(case.name, right, words, peers))
    note = "One scripted model and the same judgement for both; the sandboxes run the code."
    return [Report("openai-front-cases", "OpenAI face: 13 cases", [], note, findings)]
