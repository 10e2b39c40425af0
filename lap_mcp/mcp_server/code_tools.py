"""`code_interpreter`: Python in a sandbox, as one tool; `save_files`: what it made, for a local
user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal

import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.errors import Invalid

from . import files as file_arguments
from .options import MAX_FILES, FaceOptions
from .results import interpreter_result, size_words, text_result
from .text import clean
from .toolset import ALWAYS_LOAD, Call, Caller, ToolResult, Toolset, tool

DEFAULT_TIMEOUT: Final = 45.0
MAX_TIMEOUT: Final = 240.0

DEFINITION: Final = tool(
    "code_interpreter",
    "Run Python in an isolated sandbox and see its output, last value, plots and files. "
    "Variables and imports stay between calls on the same sandbox; files live in /mnt/data. "
    "numpy, pandas and matplotlib are installed; there is no network. Show a plot with "
    "plt.show(); print only what you need. On a timeout the cell is stopped, its variables kept. "
    "A sandbox unused for long loses its variables, never its files: its id goes on working.",
    {
        "code": {"type": "string", "description": "Python; top-level await works."},
        "sandbox": {
            "type": "string",
            "description": "Sandbox id of an earlier result, to go on there.",
        },
        "files": {
            **file_arguments.SCHEMA,
            "description": "Put into /mnt/data first: lap:// URIs (such as an agent's files), "
            "local paths (stdio only), or {name, base64} up to 5 MB.",
        },
        "replay": {
            "type": "boolean",
            "description": "If the sandbox lost its variables: run its earlier cells again first.",
        },
        "timeout_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MAX_TIMEOUT,
            "description": "Seconds the code may run (default 45).",
        },
    },
    required=["code"],
    annotations=t.ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    ),
    meta=ALWAYS_LOAD,
)


SAVE_FILES: Final = tool(
    "save_files",
    "Save files of a sandbox or a session on the user's machine, as new files in ./lap-output or "
    "the folder that the user configured. Nothing is overwritten; names that programs run or read "
    "as settings are refused. Says where each file is.",
    {
        "files": {
            "type": "array",
            "description": "lap:// URIs of files, from earlier results.",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MAX_FILES,
        }
    },
    required=["files"],
    annotations=t.ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    ),
)


class CodeTools(Toolset):
    """The toolset `code`.  `save_files` is for stdio, where there is one user's machine."""

    name = "code"

    def __init__(self, options: FaceOptions) -> None:
        self._local = options.transport == "stdio"
        self._link = options.link

    async def tools(
        self, caller: Caller, services: Callable[[], Awaitable[Services]]
    ) -> Sequence[t.Tool]:
        return [DEFINITION, SAVE_FILES] if self._local else [DEFINITION]

    async def call(self, call: Call, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        services = await call.services()
        if name == SAVE_FILES.name:
            return await _save(services, call, arguments["files"])
        return await self._interpret(services, call, arguments)

    async def _interpret(
        self, services: Services, call: Call, arguments: Mapping[str, Any]
    ) -> ToolResult:
        scope = call.caller.scope
        progress = call.progress
        progress.idle = "The code is running."

        def on_output(stream: Literal["stdout", "stderr"], text: str) -> None:
            progress.feed(text)

        async with progress.running():
            run = await services.sandboxes.run(
                call.principal,
                arguments["code"],
                sandbox_id=arguments.get("sandbox") or None,
                scope=scope,
                files=file_arguments.file_inputs(call.caller, arguments.get("files") or ()),
                timeout=float(arguments.get("timeout_s") or DEFAULT_TIMEOUT),
                replay=bool(arguments.get("replay")),
                on_output=on_output if progress.wanted else None,
            )
        explicit = bool(arguments.get("sandbox"))
        return interpreter_result(run, scoped=scope is not None and not explicit, link=self._link)


async def _save(services: Services, call: Call, uris: Sequence[str]) -> ToolResult:
    if services.output is None or call.caller.transport != "stdio":
        raise Invalid("This server saves no files.", remedy="Read them by their lap:// URIs.")
    saved = await services.output.save(call.principal, uris)
    lines = [f"- {clean(file.path)} ({size_words(file.size)})" for file in saved]
    return text_result("Saved:\n" + "\n".join(lines))
