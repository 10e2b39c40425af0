"""Sandboxes that play a script: `Cell` decides what a piece of code does; no code is run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio
from lap_sandbox.base import Execution, ExecutionError, FileInfo, Output, Preparation

from lap_mcp.clock import new_id
from lap_mcp.control.services import FileInput, FilePart, SandboxRun, SandboxView
from lap_mcp.errors import NotFound, Unavailable
from lap_mcp.model import Principal

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64

Cell = Callable[["ScriptedBox", str, Callable[[str], None]], Awaitable[Execution]]


@dataclass
class ScriptedBox:
    id: str
    principal: str
    files: dict[str, bytes] = field(default_factory=dict)
    executions: int = 0
    interrupted: int = 0
    variables: dict[str, str] = field(default_factory=dict)


async def default_cell(box: ScriptedBox, code: str, out: Callable[[str], None]) -> Execution:
    """A tiny language: `say X`, `set K V`, `get K`, `raise X`, `plot`, `write N X`, `forever`."""
    done = Execution(id=f"exe{box.executions}", status="ok", duration=0.01)
    verb, _, rest = code.partition(" ")
    match verb:
        case "say":
            out(rest)
            return replace(done, stdout=rest)
        case "set":
            key, _, box.variables[key] = rest.partition(" ")
            return done
        case "get":
            return replace(done, value=box.variables.get(rest))
        case "raise":
            error = ExecutionError(
                name="ValueError", value=rest, traceback=f"Traceback\nValueError: {rest}"
            )
            return replace(done, status="error", error=error)
        case "plot":
            return replace(done, outputs=[Output(mime="image/png", data=PNG)])
        case "write":
            name, _, text = rest.partition(" ")
            box.files[name] = text.encode()
            info = FileInfo(path=name, size=len(text), modified=time.time())
            return replace(done, files=[info])
        case "forever":
            out("started\n")
            await anyio.sleep_forever()
    return done


class ScriptedSandboxes:
    def __init__(self, cell: Cell = default_cell) -> None:
        self.cell = cell
        self.boxes: dict[str, ScriptedBox] = {}
        self.scopes: dict[str, str] = {}
        self.released: list[str] = []
        self.given: list[FileInput] = []
        self.down: Unavailable | None = None

    def preparation(self) -> Preparation:
        return Preparation(ready=True, words="ready")

    async def run(
        self,
        principal: Principal,
        code: str,
        *,
        sandbox_id: str | None = None,
        scope: str | None = None,
        files: Sequence[FileInput] = (),
        timeout: float = 45.0,
        replay: bool = False,
        on_output: Callable[[Literal["stdout", "stderr"], str], None] | None = None,
    ) -> SandboxRun:
        if self.down is not None:
            raise self.down
        box, fresh = self._box(principal, sandbox_id, scope)
        self.given += files
        for given in files:
            box.files[given.name or given.path or given.uri.rpartition("/")[2]] = given.data or b""
        box.executions += 1

        def out(text: str) -> None:
            if on_output is not None:
                on_output("stdout", text)

        try:
            execution = await self.cell(box, code, out)
        except anyio.get_cancelled_exc_class():
            box.interrupted += 1
            raise
        uris = {f.path: f"lap://sandboxes/{box.id}/files/{f.path}" for f in execution.files}
        return SandboxRun(sandbox_id=box.id, execution=execution, fresh=fresh, uris=uris)

    def _box(
        self, principal: Principal, sandbox_id: str | None, scope: str | None
    ) -> tuple[ScriptedBox, bool]:
        if sandbox_id is None and scope is not None:
            sandbox_id = self.scopes.get(scope)
        if sandbox_id is not None:
            return self._owned(principal, sandbox_id), False
        box = ScriptedBox(new_id("sbx"), principal.id)
        self.boxes[box.id] = box
        if scope is not None:
            self.scopes[scope] = box.id
        return box, True

    def _owned(self, principal: Principal, sandbox_id: str) -> ScriptedBox:
        box = self.boxes.get(sandbox_id)
        if box is None or box.principal != principal.id:
            raise NotFound(f"There is no sandbox `{sandbox_id}`.")
        return box

    async def list(self, principal: Principal) -> Sequence[SandboxView]:
        return [
            SandboxView(
                id=box.id,
                principal=box.principal,
                created_at=0,
                used_at=0,
                executions=box.executions,
                busy=False,
            )
            for box in self.boxes.values()
            if box.principal == principal.id
        ]

    async def files(
        self, principal: Principal, sandbox_id: str, *, after: str = "", limit: int = 1000
    ) -> Sequence[FileInfo]:
        box = self._owned(principal, sandbox_id)
        found = [FileInfo(path=p, size=len(d), modified=0) for p, d in sorted(box.files.items())]
        return [info for info in found if info.path > after][:limit]

    async def file(self, principal: Principal, sandbox_id: str, path: str) -> bytes:
        box = self._owned(principal, sandbox_id)
        if path not in box.files:
            raise NotFound(f"There is no file `{path}`.")
        return box.files[path]

    async def part(
        self, principal: Principal, sandbox_id: str, path: str, start: int, size: int
    ) -> FilePart:
        data = await self.file(principal, sandbox_id, path)
        return FilePart(
            path=path,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            start=start,
            data=data[start : start + size],
        )

    async def release(self, scope: str) -> None:
        self.released.append(scope)
        box = self.scopes.pop(scope, None)
        if box is not None:
            del self.boxes[box]
