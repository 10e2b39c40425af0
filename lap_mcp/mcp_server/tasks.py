"""The tasks extension, `io.modelcontextprotocol/tasks` (SEP-2663): handles for long calls.

A task of an agent call has its session and turn as its id, so it can be polled after the process
that made it is gone; others live as long as the face.  A task belongs to the principal that made
it; foreign and missing are the same answer.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import anyio
import anyio.abc
import mcp.types as t
from mcp.shared.exceptions import MCPError
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from lap_mcp.errors import LapError
from lap_mcp.model import Principal

from . import sdk
from .results import error_result
from .text import iso, one_line

logger = logging.getLogger(__name__)

Status = Literal["working", "input_required", "completed", "failed", "cancelled"]
TTL: Final = 3600.0
"""Seconds that an ended task is kept."""
POLL_MS: Final = 500
MAX_TASKS: Final = 2000
CANCEL_DEADLINE: Final = 15.0


class TaskEnded(Exception):
    """The work behind a task was cancelled, by whomever."""


class TaskBody(Protocol):
    """The work behind a task."""

    async def run(self, task: TaskRecord) -> t.CallToolResult:
        """Raises: TaskEnded, LapError, MCPError (the task fails with it)."""
        ...

    async def cancel(self) -> None:
        """End the work itself, not only our waiting for it."""
        ...


@dataclass(slots=True, kw_only=True)
class TaskRecord:
    """One task."""

    id: str
    owner: str
    body: TaskBody
    status: Status = "working"
    message: str = ""
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    pending: dict[str, t.ElicitRequest] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    answered: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def say(self, message: str) -> None:
        """What it is doing now."""
        self.message, self.updated = one_line(message, 300), time.time()

    def move(self, status: Status) -> None:
        if self.ended.is_set():
            return
        self.status, self.updated = status, time.time()
        if status in ("completed", "failed", "cancelled"):
            self.pending.clear()
            self.ended.set()

    async def ask(
        self,
        requests: Mapping[str, t.ElicitRequest],
        until: Callable[[], Awaitable[object]] | None = None,
    ) -> dict[str, Any]:
        """Put requests to the client and return its responses by key; fewer, perhaps none, if
        `until` returns first.  Whatever `until` raises, it raises itself."""
        self.pending.update(requests)
        self.move("input_required")
        failures: list[Exception] = []
        try:
            async with anyio.create_task_group() as group:
                if until is not None:
                    group.start_soon(self._until, until, group.cancel_scope, failures)
                while any(key in self.pending for key in requests):
                    self.answered = anyio.Event()
                    await self.answered.wait()
                group.cancel_scope.cancel()
        finally:
            for key in requests:
                self.pending.pop(key, None)
        if failures:
            raise failures[0]
        self.move("working")
        return {key: self.answers.pop(key) for key in requests if key in self.answers}

    @staticmethod
    async def _until(
        until: Callable[[], Awaitable[object]],
        scope: anyio.CancelScope,
        failures: list[Exception],
    ) -> None:
        try:
            await until()
        except Exception as error:
            # Not from inside the task group, which would wrap it.
            failures.append(error)
        scope.cancel()

    def head(self) -> dict[str, Any]:
        """The fields that every answer about a task has."""
        shown: dict[str, Any] = {
            "taskId": self.id,
            "status": self.status,
            "createdAt": iso(self.created),
            "lastUpdatedAt": iso(self.updated),
            "ttlMs": int(TTL * 1000),
            "pollIntervalMs": POLL_MS,
        }
        if self.message:
            shown["statusMessage"] = self.message
        return shown

    def detail(self) -> dict[str, Any]:
        shown = self.head()
        if self.status == "completed":
            shown["result"] = self.result
        elif self.status == "failed":
            shown["error"] = self.error
        elif self.status == "input_required":
            shown["inputRequests"] = {
                key: request.model_dump(by_alias=True, mode="json", exclude_none=True)
                for key, request in self.pending.items()
            }
        return shown


class TaskIdParams(t.RequestParams):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")
    task_id: str


class TaskUpdateParams(TaskIdParams):
    input_responses: dict[str, Any] = Field(default_factory=dict)


Restore = Callable[[Principal, str], Awaitable[TaskBody | None]]


class Tasks:
    """The tasks of one face.  `group` is the face's own: tasks outlive their requests."""

    def __init__(self) -> None:
        self._records: dict[str, TaskRecord] = {}
        self._group: anyio.abc.TaskGroup | None = None
        self.restore: Restore | None = None
        """Finds the work behind an id that this process does not know."""

    def open(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group

    def __len__(self) -> int:
        return len(self._records)

    @property
    def running(self) -> int:
        return sum(not record.ended.is_set() for record in self._records.values())

    def register(self, server: sdk.LapServer) -> None:
        server.extensions[sdk.TASKS_EXTENSION] = {}
        server.add_request_handler("tasks/get", TaskIdParams, self._get)
        server.add_request_handler("tasks/update", TaskUpdateParams, self._update)
        server.add_request_handler("tasks/cancel", TaskIdParams, self._cancel)

    def create(self, principal: Principal, body: TaskBody, *, task_id: str = "") -> dict[str, Any]:
        """Start the work and return the `CreateTaskResult` to answer with.  The same id again is
        the same task."""
        record = self._start(principal, body, task_id or secrets.token_urlsafe(24))
        return {"resultType": "task", **record.head()}

    def _start(self, principal: Principal, body: TaskBody, task_id: str) -> TaskRecord:
        known = self._records.get(task_id)
        if known is not None and known.owner == principal.id and not known.ended.is_set():
            return known
        self._sweep()
        record = TaskRecord(id=task_id, owner=principal.id, body=body)
        self._records[task_id] = record
        if self._group is None:
            raise RuntimeError("the face is not running")
        self._group.start_soon(self._run, record)
        return record

    def _sweep(self) -> None:
        """Forget tasks that ended long ago, and the oldest ended ones beyond `MAX_TASKS`."""
        oldest = time.time() - TTL
        ended = [r for r in self._records.values() if r.ended.is_set()]
        excess = len(self._records) - MAX_TASKS
        for index, record in enumerate(ended):
            if record.updated < oldest or index < excess:
                del self._records[record.id]

    async def _run(self, record: TaskRecord) -> None:
        """Boundary: whatever the work raises ends the task, never the face."""
        try:
            await self._work(record)
        finally:
            if not record.ended.is_set():  # the face ends: an agent's task is found again by its id
                self._records.pop(record.id, None)

    async def _work(self, record: TaskRecord) -> None:
        with record.scope:
            try:
                outcome = await record.body.run(record)
                record.result = _wire(outcome)
                record.move("completed")
            except TaskEnded as ended:
                record.say(str(ended))
                record.move("cancelled")
            except MCPError as error:
                record.error = {"code": error.code, "message": str(error)}
                record.move("failed")
            except LapError as error:
                record.result = _wire(error_result(error))
                record.move("completed")
            except Exception:
                logger.exception("the work behind a task raised")
                record.error = {"code": t.INTERNAL_ERROR, "message": "Internal error"}
                record.move("failed")
        if record.scope.cancelled_caught:
            record.move("cancelled")

    async def _find(self, ctx: sdk.Ctx, task_id: str) -> TaskRecord:
        if not sdk.has_tasks(ctx):
            raise sdk.tasks_required()
        sdk.check_name_header(ctx, task_id)
        principal = sdk.principal_of(ctx)
        record = self._records.get(task_id)
        if record is None and self.restore is not None:
            body = await self.restore(principal, task_id)
            if body is not None:
                record = self._start(principal, body, task_id)
                with anyio.move_on_after(0.2):
                    await record.ended.wait()
        if record is None or record.owner != principal.id:
            raise sdk.invalid_params("There is no such task.")
        return record

    async def _get(self, ctx: sdk.Ctx, params: TaskIdParams) -> dict[str, Any]:
        return (await self._find(ctx, params.task_id)).detail()

    async def _update(self, ctx: sdk.Ctx, params: TaskUpdateParams) -> dict[str, Any]:
        record = await self._find(ctx, params.task_id)
        for key, response in params.input_responses.items():
            if record.pending.pop(key, None) is not None:
                record.answers[key] = response
        record.answered.set()
        return {}

    async def _cancel(self, ctx: sdk.Ctx, params: TaskIdParams) -> dict[str, Any]:
        record = await self._find(ctx, params.task_id)
        if not record.ended.is_set() and self._group is not None:
            self._group.start_soon(self._end, record)
            with anyio.move_on_after(CANCEL_DEADLINE + 1):
                await record.ended.wait()
        return {}

    @staticmethod
    async def _end(record: TaskRecord) -> None:
        try:
            with anyio.move_on_after(CANCEL_DEADLINE):
                await record.body.cancel()
        except LapError as error:
            logger.warning("a task could not be cancelled: %s", error)
        record.scope.cancel()


def _wire(result: t.CallToolResult) -> dict[str, Any]:
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)
