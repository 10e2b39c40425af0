"""The agents of the test server, each with one way to behave."""

from __future__ import annotations

import anyio

from tests.mcp.scripted import Failed, ScriptedRegistry, Stage
from tests.mcp.scripted_sandboxes import PNG


def cast(registry: ScriptedRegistry) -> None:
    """The agents of the test server."""

    async def echo(stage: Stage) -> None:
        await stage.delta(f"You said: {stage.prompt.text}")
        await stage.message(f"You said: {stage.prompt.text}")

    async def slow(stage: Stage) -> None:
        await stage.delta("Thinking. ")
        await anyio.sleep(float(stage.prompt.text or 60))
        await stage.message("Slowly done.")

    async def careful(stage: Stage) -> None:
        answer = await stage.ask("May I delete it?", tool="rm", tool_input={"path": "x"})
        await stage.message(f"Decision: {answer.decision or answer.option}")

    async def curious(stage: Stage) -> None:
        answer = await stage.ask("Which colour?", kind="input")
        await stage.message(f"Colour: {answer.text}")

    async def maker(stage: Stage) -> None:
        await stage.file("plot.png", "image/png", PNG)
        await stage.file("broken.png", "image/png", b"not an image at all, " * 4)
        await stage.message("Made two files.")

    async def failing(stage: Stage) -> None:
        await stage.message("I tried.")
        raise Failed("the backend is on fire")

    async def long(stage: Stage) -> None:
        await stage.message("\n".join(f"line {i} of a long answer, é" for i in range(2000)))

    async def recruiter(stage: Stage) -> None:
        registry.add(stage.prompt.text, echo)
        await stage.message("done")

    async def typed(stage: Stage) -> None:
        await stage.message("ok", data={"sum": (stage.prompt.input or {}).get("a", 0)})

    registry.add("echo", echo, description="Repeats what you say.")
    registry.add("slow", slow)
    registry.add("slow_bound", slow, cancel_on_disconnect=True)
    registry.add("careful", careful)
    registry.add("trusting", careful, model_may_answer=True)
    registry.add("curious", curious)
    registry.add("maker", maker)
    registry.add("failing", failing)
    registry.add("recruiter", recruiter, description="Registers an agent of the name you say.")
    registry.add("long", long)
    number = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    registry.add("typed", typed, input_schema=number, output_schema={"type": "object"})
