"""Tools that the official conformance suite calls, as one toolset of the face's own seam."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import mcp.types as t
from mcp.shared.exceptions import MCPError

from lap_mcp.control.changes import Change, Changes
from lap_mcp.control.services import Services
from lap_mcp.mcp_server import sdk
from lap_mcp.mcp_server.results import text_result
from lap_mcp.mcp_server.tasks import TaskRecord
from lap_mcp.mcp_server.toolset import Call, Caller, ToolResult, Toolset
from tests.conformance import content

Handler = Callable[[Call, Mapping[str, Any]], Awaitable[ToolResult]]


class ConformanceTools(Toolset):
    name = "conformance"

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._tools: dict[str, tuple[t.Tool, Handler]] = {}
        self._add_contents()
        self._add_back_channel()
        self._add_input_required()
        self._add_tasks()

    def _add(
        self, name: str, handler: Handler, properties: Mapping[str, Any] | None = None
    ) -> None:
        schema = {"type": "object", "properties": dict(properties or {})}
        self._tools[name] = (t.Tool(name=name, description=name, input_schema=schema), handler)

    async def tools(
        self, caller: Caller, services: Callable[[], Awaitable[Services]]
    ) -> Sequence[t.Tool]:
        await services()
        return [definition for definition, _ in self._tools.values()]

    async def call(self, call: Call, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        return await self._tools[name][1](call, arguments)

    def _add_contents(self) -> None:
        for name, blocks in content.BLOCKS.items():
            self._add(name, _constant(t.CallToolResult(content=blocks)))
        self._add("test_error_handling", _constant(text_result("as intended", is_error=True)))
        self._add("test_tool_with_progress", _progress)
        self._add("test_tool_with_logging", _logging)
        self._add("test_logging_tool", _logging)
        self._add("test_reconnection", _reconnection)
        self._add(
            "test_x_mcp_header",
            _constant(text_result("ok")),
            {"region": {"type": "string", "x-mcp-header": "Region"}},
        )
        name = "json_schema_2020_12_tool"
        tool = t.Tool(name=name, description=name, input_schema=content.SCHEMA_2020_12)
        self._tools[name] = (tool, _constant(text_result("ok")))
        self._add("test_trigger_tool_change", self._publish("tools"))
        self._add("test_trigger_prompt_change", self._publish("prompts"))
        self._add("test_missing_capability", _missing_capability)

    def _publish(self, topic: Any) -> Handler:
        async def handler(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
            self._changes.publish(Change(topic))
            return text_result("published")

        return handler

    def _add_back_channel(self) -> None:
        self._add("test_sampling", _sampling, {"prompt": {"type": "string"}})
        self._add(
            "test_elicitation",
            _elicits(content.RESPONSE_FORM),
            {"message": {"type": "string"}},
        )
        self._add("test_elicitation_sep1034_defaults", _elicits(content.DEFAULTS_FORM))
        self._add("test_elicitation_sep1330_enums", _elicits(content.ENUMS_FORM))

    def _add_input_required(self) -> None:
        prefix = "test_input_required_result_"
        self._add(prefix + "elicitation", _asks({"user_name": content.ask_name()}))
        self._add("test_streaming_elicitation", _streamed_question)
        self._add(prefix + "sampling", _asks({"capital_question": content.ask_model()}))
        self._add(prefix + "list_roots", _asks({"client_roots": t.ListRootsRequest()}))
        confirm = {"confirm": content.ask_ok()}
        self._add(prefix + "request_state", _asks(confirm, state="nonce"))
        self._add(prefix + "tampered_state", _asks(confirm, state="first"))
        several: dict[str, Any] = {
            "user_name": content.ask_name(),
            "greeting": content.ask_model(),
            "client_roots": t.ListRootsRequest(),
        }
        self._add(prefix + "multiple_inputs", _asks(several, state="several"))
        self._add(prefix + "multi_round", _rounds)
        self._add(prefix + "capabilities", _by_capability)

    def _add_tasks(self) -> None:
        text = {"type": "string"}
        self._add("greet", _greet, {"name": text})
        self._add("slow_compute", _slow, {"seconds": {"type": "number"}, "label": text})
        self._add("failing_job", _as_task(_FailingJob, required=True))
        self._add("protocol_error_job", _as_task(_ProtocolErrorJob, required=False))
        self._add("confirm_delete", _as_task(_Confirm, required=True), {"filename": text})
        self._add("multi_input", _as_task(_MultiInput, required=True))
        self._add("test_tool_with_task", _ask_then_task)


def _constant(result: t.CallToolResult) -> Handler:
    async def handler(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
        return result

    return handler


async def _progress(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    for step in (0, 50, 100):
        await call.ctx.session.report_progress(step, 100, f"step {step} of 100")
    token = (call.ctx.meta or {}).get("progress_token")
    return text_result(str(token))


async def _log(call: Call, words: str) -> None:
    session: Any = call.ctx.session
    await session.send_log_message("info", words, related_request_id=call.ctx.request_id)


async def _logging(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    for words in ("started", "going on", "done"):
        await _log(call, words)
    return text_result("logged")


async def _reconnection(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    """Closes its stream half-way: the client has to come back for the rest."""
    await _log(call, "before")
    if call.ctx.close_sse_stream is not None:
        await call.ctx.close_sse_stream()
    await anyio.sleep(0.2)  # the pause is the point: the answer comes after the reconnect
    await _log(call, "after")
    return text_result("reconnected")


async def _missing_capability(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    capabilities = call.ctx.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            code=t.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs sampling.",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return text_result("sampling is declared")


async def _sampling(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    session: Any = call.ctx.session
    message = t.SamplingMessage(role="user", content=t.TextContent(text=arguments["prompt"]))
    answer = await session.create_message(
        messages=[message], max_tokens=100, related_request_id=call.ctx.request_id
    )
    return text_result(f"LLM response: {answer.content.text}")


def _elicits(form: dict[str, Any]) -> Handler:
    async def handler(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
        answer = await call.ctx.session.elicit_form(
            arguments.get("message", "Please fill in"), form, call.ctx.request_id
        )
        return text_result(f"User response: {answer.action} {json.dumps(answer.content)}")

    return handler


def _asks(requests: Mapping[str, Any], state: str | None = None) -> Handler:
    """Asks until every key is answered, and its own state is there."""

    async def handler(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
        complete = all(key in call.input_responses for key in requests)
        if complete and (state is None or call.request_state == state):
            known = content.words_of(call.input_responses)
            return text_result(f"state-ok. All inputs received: {known}")
        return t.InputRequiredResult(input_requests=dict(requests), request_state=state)

    return handler


async def _streamed_question(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    """Something on the response's stream, and then the question as its result."""
    await call.ctx.session.report_progress(1, 2, "about to ask")
    return await _asks({"user_name": content.ask_name()})(call, arguments)


async def _rounds(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    state = json.loads(call.request_state) if call.request_state else {"round": 0}
    if state["round"] == 1 and "step1" in call.input_responses:
        return t.InputRequiredResult(
            input_requests={"step2": content.ask_form("color")},
            request_state=json.dumps({"round": 2}),
        )
    if state["round"] == 2 and "step2" in call.input_responses:
        return text_result("two rounds done")
    return t.InputRequiredResult(
        input_requests={"step1": content.ask_name()}, request_state=json.dumps({"round": 1})
    )


async def _by_capability(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    capabilities = call.ctx.session.client_capabilities
    requests: dict[str, Any] = {}
    if capabilities is not None and capabilities.sampling is not None:
        requests["sample"] = content.ask_model()
    if call.caller.elicit_form:
        requests["ask"] = content.ask_name()
    return t.InputRequiredResult(input_requests=requests, request_state="by capability")


async def _greet(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    return text_result(f"Hello, {arguments.get('name', 'you')}!")


class _Job:
    """Work behind a task of the suite."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.arguments = arguments

    async def run(self, task: TaskRecord) -> t.CallToolResult:
        raise NotImplementedError

    async def cancel(self) -> None:
        """Nothing outside the task runs: its scope is all there is to end."""


class _SlowJob(_Job):
    async def run(self, task: TaskRecord) -> t.CallToolResult:
        task.say("computing")
        await anyio.sleep(float(self.arguments.get("seconds", 0)))
        return text_result(f"done {self.arguments.get('label', '')}")


class _FailingJob(_Job):
    async def run(self, task: TaskRecord) -> t.CallToolResult:
        await anyio.sleep(0.2)
        return text_result("the job failed", is_error=True)


class _ProtocolErrorJob(_Job):
    async def run(self, task: TaskRecord) -> t.CallToolResult:
        await anyio.sleep(0.1)
        raise MCPError(code=t.INTERNAL_ERROR, message="the agent crashed")


class _Confirm(_Job):
    async def run(self, task: TaskRecord) -> t.CallToolResult:
        answers = await task.ask({"confirm": content.ask_form("confirm", "boolean")})
        return text_result(f"answered: {content.words_of(answers)}")


class _MultiInput(_Job):
    async def run(self, task: TaskRecord) -> t.CallToolResult:
        answers = await task.ask(
            {"first": content.ask_name(), "second": content.ask_form("confirm", "boolean")}
        )
        return text_result(f"answered: {content.words_of(answers)}")


def _as_task(job: Callable[[Mapping[str, Any]], _Job], *, required: bool) -> Handler:
    async def handler(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
        if call.caller.tasks:
            return call.tasks.create(call.principal, job(arguments))
        if required:
            raise sdk.tasks_required()
        inline = TaskRecord(id="inline", owner=call.principal.id, body=job(arguments))
        return await inline.body.run(inline)

    return handler


async def _slow(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    if call.caller.tasks:
        return call.tasks.create(call.principal, _SlowJob(arguments))
    steps = max(int(float(arguments.get("seconds", 0)) * 10), 1)
    for step in range(steps):
        await anyio.sleep(0.1)
        await call.ctx.session.report_progress(step + 1, steps, f"step {step + 1}")
    return text_result(f"done {arguments.get('label', '')}")


async def _ask_then_task(call: Call, arguments: Mapping[str, Any]) -> ToolResult:
    if "user_name" not in call.input_responses:
        return t.InputRequiredResult(
            input_requests={"user_name": content.ask_name()}, request_state="asked"
        )
    if not call.caller.tasks:
        raise sdk.tasks_required()

    class Hello(_Job):
        async def run(self, task: TaskRecord) -> t.CallToolResult:
            return text_result(f"Hello: {content.words_of(call.input_responses)}")

    return call.tasks.create(call.principal, Hello(arguments))
