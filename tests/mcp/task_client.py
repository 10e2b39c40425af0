"""The client's side of the tasks extension, for tests: the SDK has none."""

from __future__ import annotations

from typing import Any, Literal

import mcp.types as t
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

_WIRE = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class TaskParams(t.RequestParams):
    model_config = _WIRE
    task_id: str
    input_responses: dict[str, Any] | None = None


class GetTask(t.Request[TaskParams, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams
    name_param = "taskId"


class UpdateTask(t.Request[TaskParams, Literal["tasks/update"]]):
    method: Literal["tasks/update"] = "tasks/update"
    params: TaskParams
    name_param = "taskId"


class CancelTask(t.Request[TaskParams, Literal["tasks/cancel"]]):
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams
    name_param = "taskId"


class Task(t.Result):
    model_config = _WIRE
    task_id: str = ""
    status: str = ""
    status_message: str | None = None
    result: dict[str, Any] | None = None
    input_requests: dict[str, Any] | None = None


class Created(t.Result):
    model_config = _WIRE
    result_type: Literal["task"] = "task"
    task_id: str
    status: str


class TasksExtension(ClientExtension):
    """Declares the extension; a call that became a task gives its id as the result's text."""

    identifier = "io.modelcontextprotocol/tasks"

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Created, resolve=self._resolve)]

    async def _resolve(self, created: Created, ctx: ClaimContext) -> t.CallToolResult:
        return t.CallToolResult(content=[t.TextContent(text=f"task {created.task_id}")])


async def task_get(client: Any, task_id: str) -> Task:
    request = GetTask(params=TaskParams(task_id=task_id))
    found = await client.session.send_request(request, Task)
    assert isinstance(found, Task)
    return found


async def task_update(client: Any, task_id: str, responses: dict[str, Any]) -> None:
    params = TaskParams(task_id=task_id, input_responses=responses)
    await client.session.send_request(UpdateTask(params=params), Task)


async def task_cancel(client: Any, task_id: str) -> None:
    await client.session.send_request(CancelTask(params=TaskParams(task_id=task_id)), Task)
