"""LiteLLM's interception of `code_interpreter` as its SDK runs it, in an environment of its own.

`python litellm_process.py` takes orders as lines of JSON and answers each with one.  The sandbox is
the seam that LiteLLM's own tests use (`sandbox_config`): it runs code for real, in this process,
and shows what Jupyter shows, so that nothing that gets lost is lost by it.  Imports nothing of the
project.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import sys
import time
import traceback
from typing import Any

import litellm
from litellm.integrations.code_interpreter_interception.handler import (
    CodeInterpreterInterceptionLogger,
)
from litellm.llms.base_llm.sandbox.transformation import CodeExecutionResult, ContainerHandle

litellm.suppress_debug_info = True
OPENING = 0.05
"""Seconds that a sandbox takes to open; real ones take longer."""
PICTURE = "iVBORw0KGgo="


class Sandbox:
    """`kind`: `works`, `free` (answers without running anything), `absent`, `breaks`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.created = self.deleted = 0
        self.begun: list[float] = []
        self.names: dict[str, dict[str, Any]] = {}

    async def acreate_sandbox(self) -> ContainerHandle:
        if self.kind != "free":
            await asyncio.sleep(OPENING)
        if self.kind == "absent":
            raise ConnectionError("Cannot connect to the Docker daemon")
        self.created += 1
        return ContainerHandle(id=f"sandbox-{self.created}", provider="here")

    async def arun_code(self, *, container: ContainerHandle, code: str) -> CodeExecutionResult:
        self.begun.append(time.time())
        if self.kind == "breaks":
            raise ConnectionError("the sandbox went away")
        if self.kind == "free":
            return CodeExecutionResult()
        return await asyncio.to_thread(run, code, self.names.setdefault(container.id, {}))

    async def adelete_sandbox(self, *, container: ContainerHandle) -> None:
        self.deleted += 1


def run(code: str, names: dict[str, Any]) -> CodeExecutionResult:
    """One cell."""
    out, err = io.StringIO(), io.StringIO()
    results: list[dict[str, object]] = []
    error: dict[str, object] | None = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            tree = ast.parse(code)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
                if value is not None:
                    results.append({"text": repr(value)})
        except Exception as problem:
            told = traceback.format_exc()
            error = {"name": type(problem).__name__, "value": str(problem), "traceback": told}
    if "plt.show()" in code:
        results.append({"png": PICTURE})
        error = None
    return CodeExecutionResult(
        stdout=out.getvalue(), stderr=err.getvalue(), results=results, error=error
    )


def plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


async def once(order: dict[str, Any]) -> dict[str, Any]:
    """One request: what came of it, its events, and how long it took."""
    body = {**order["body"], "model": "openai/m", "api_base": order["url"], "api_key": "none"}
    ask = litellm.acompletion if "messages" in body else litellm.aresponses
    began = time.perf_counter()
    answer, events = await ask(**body), []
    if body.get("stream"):
        async for event in answer:
            events.append((str(getattr(event, "type", "")), time.time()))
            answer = plain(event).get("response") or answer
        events = [(kind.rpartition("ResponsesAPIStreamEvents.")[2], at) for kind, at in events]
    taken = time.perf_counter() - began
    return {"answer": plain(answer), "events": events, "seconds": taken}


async def done(order: dict[str, Any]) -> dict[str, Any]:
    sandbox = Sandbox(order["sandbox"])
    litellm.callbacks = [CodeInterpreterInterceptionLogger(sandbox_config=sandbox)]
    if order.get("at_once"):
        found = await asyncio.gather(*(once(order) for _ in range(order["at_once"])))
    else:
        found = [await once(order) for _ in range(order.get("times", 1))]
    return {
        **found[-1],
        "all_seconds": [each["seconds"] for each in found],
        "created": sandbox.created,
        "deleted": sandbox.deleted,
        "begun": sandbox.begun,
    }


async def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            said = await done(json.loads(line))
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(said, default=str) + "\n")
        answers.flush()


if __name__ == "__main__":
    asyncio.run(main())
