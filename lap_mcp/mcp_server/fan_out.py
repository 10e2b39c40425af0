"""`ask_agents`: one prompt on several agents at once, each in a session of its own.

What holds for one agent's call holds for each: the turns are the engine's, a call that ends lets
go of them, and only an agent with `cancel_on_disconnect` is stopped then.  One that fails is an
answer like the others.  Questions are not put to a person here: they are shown, with how to answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import mcp.types as t

from lap_mcp.control.services import FileInput, NewPrompt, Services
from lap_mcp.errors import LapError, LimitReached
from lap_mcp.model import Agent, SessionFile, Turn

from . import files as file_arguments
from .held import Held
from .long_turn import wait_until
from .options import DEFAULT_WAIT, LONG_WAIT, TEXT_LIMIT
from .questions import how_to_answer
from .results import MAX_LINKS, file_link, status_line
from .text import clean, one_line, page
from .toolset import Call, tool

MAX_AGENTS: Final = 20
_TOLD: Final = 400
"""Characters of an answer that its progress shows."""
_END: Final = 400
"""Bytes of the last lines of all."""
_MARK: Final = 80
"""Bytes of the line that says where an answer goes on."""
_LEAST: Final = 40
"""Bytes of an answer that are shown in any case."""

DEFINITION: Final = tool(
    "ask_agents",
    "Ask several agents the same at once, to compare or to divide work. Each answers in a session "
    "of its own; one that fails does not fail the others.",
    {
        "agents": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MAX_AGENTS,
            "description": "Names of agents.",
        },
        "prompt": {"type": "string", "description": "All they need: they see nothing else."},
        "files": file_arguments.SCHEMA,
        "wait_s": {
            "type": "number",
            "minimum": 0,
            "maximum": LONG_WAIT,
            "description": "Seconds to wait for all; default 45, 0 returns at once.",
        },
    },
    required=["agents", "prompt"],
    annotations=t.ToolAnnotations(read_only_hint=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """How one agent's turn stands when the call answers; `turn` is `None` if none was begun."""

    agent: str
    turn: Turn | None = None
    text: str = ""
    files: Sequence[SessionFile] = ()
    notes: Sequence[str] = ()

    @property
    def waiting(self) -> bool:
        return self.turn is not None and self.turn.outcome in ("queued", "running")

    @property
    def failed(self) -> bool:
        return self.turn is None or self.turn.outcome in ("failed", "expired", "cancelled")


async def ask(call: Call, services: Services, arguments: Mapping[str, Any]) -> t.CallToolResult:
    """Raises: Invalid, LimitReached for files that none of them may have."""
    names = list(dict.fromkeys(arguments["agents"]))
    given = file_arguments.file_inputs(call.caller, arguments.get("files") or ())
    wait_s = arguments.get("wait_s")
    wait = min(DEFAULT_WAIT if wait_s is None else wait_s, call.caller.longest_wait)
    round_ = _Round(call, services, arguments["prompt"], given, wait)
    async with call.progress.running():
        answers = await round_.asked(names)
    return _result(answers, wait)


class _Round:
    """One prompt on its way to several agents."""

    def __init__(
        self, call: Call, services: Services, text: str, files: Sequence[FileInput], wait: float
    ) -> None:
        self._call = call
        self._services = services
        self._prompt = NewPrompt(text=text, files=files)
        self._deadline = call.began + wait
        self._left = 0
        self._running = 0
        """Turns that this call began and still waits for."""
        self._ended = anyio.Event()

    async def asked(self, names: Sequence[str]) -> list[Answered]:
        """In the order of `names`."""
        answers: dict[str, Answered] = {}
        self._left = len(names)
        self._tell()

        async def ask(name: str) -> None:
            answers[name] = await self._one(name)
            self._left -= 1
            self._tell(answers[name])

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(ask, name)
        return [answers[name] for name in names]

    def _tell(self, answered: Answered | None = None) -> None:
        self._call.progress.idle = f"Waiting for {self._left} agents."
        if answered is None:
            return
        what = "not asked" if answered.turn is None else answered.turn.outcome
        said = one_line(answered.text or " ".join(answered.notes), _TOLD)
        self._call.progress.say(f"[{one_line(answered.agent, 60)}: {what}] {said}")

    async def _one(self, name: str) -> Answered:
        """Boundary of one agent: what the caller can mend about it is its answer."""
        try:
            agent = self._services.registry.agent(name)
            held = await self._begin(agent)
            try:
                return await self._shown(held)
            except anyio.get_cancelled_exc_class():
                self._let_go(held)
                raise
            finally:
                self._running -= 1
                self._ended.set()
                self._ended = anyio.Event()
        except LapError as error:
            return Answered(agent=name, notes=[clean(str(error))])

    async def _begin(self, agent: Agent) -> Held:
        """Start the turn.  Where all that may run at once do, wait for one of this call's own."""
        while True:
            ended = self._ended
            try:
                accepted = await self._services.sessions.prompt(
                    self._call.origin, agent.name, self._prompt
                )
                break
            except LimitReached:
                left = self._deadline - anyio.current_time()
                if not self._running or left <= 0 or self._call.stopping():
                    raise
                with anyio.move_on_after(left):
                    await ended.wait()
        self._running += 1
        return Held(
            services=self._services,
            principal=self._call.principal,
            agent=agent,
            agent_name=agent.name,
            session_id=accepted.session.id,
            turn_id=accepted.turn.id,
        )

    async def _shown(self, held: Held) -> Answered:
        turn = await wait_until(self._call, held, self._deadline)
        asked = await held.questions() if turn.outcome == "requires_action" else ()
        sessions = self._services.sessions
        content = await sessions.content(held.principal, held.session_id, held.turn_id)
        error = [clean(turn.error)[:600]] if turn.error else []
        return Answered(
            agent=held.agent_name,
            turn=turn,
            text=clean(content.text).strip("\n"),
            files=content.files,
            notes=[*error, *(how_to_answer(question, held.agent) for question in asked)],
        )

    def _let_go(self, held: Held) -> None:
        if held.agent is not None and held.agent.cancel_on_disconnect:
            self._call.background(held.cancel)


def _result(answers: Sequence[Answered], wait: float) -> t.CallToolResult:
    """All answers, each with its share of the text, and the line of ids and status."""
    budget = (TEXT_LIMIT - _END) // len(answers)
    parts = [_section(answered, budget) for answered in answers]
    if any(answered.waiting for answered in answers):
        parts.append(
            f"Not all have finished after {wait:.0f} s. Read each answer: get_session with its "
            "session and wait_s. They go on working meanwhile; cancel_session ends one."
        )
    failed = sum(answered.failed for answered in answers)
    waiting = sum(answered.waiting for answered in answers)
    done = len(answers) - failed - waiting
    parts.append(f"[{len(answers)} agents · {done} answered · {waiting} running · {failed} failed]")
    content: list[t.ContentBlock] = [t.TextContent(text="\n\n".join(parts))]
    links = [file for answered in answers for file in answered.files][:MAX_LINKS]
    content.extend(file_link(file) for file in links)
    return t.CallToolResult(content=content, is_error=failed == len(answers))


def _section(answered: Answered, budget: int) -> str:
    """One answer in about `budget` bytes: what is wrong or asked first, then text, then files."""
    head = f"## {one_line(answered.agent, 60)}"
    last = f"[agent {one_line(answered.agent, 60)} · not asked]"
    if answered.turn is not None:
        last = status_line(answered.turn, answered.agent)
    room = max(budget - len(f"{head}{last}".encode()) - _MARK, _LEAST)
    notes = page("\n".join(answered.notes), 0, room if not answered.text else room // 2).text
    shown = page(answered.text, 0, max(room - len(notes.encode()), _LEAST))
    room -= len(f"{notes}{shown.text}".encode())
    lines = [head, shown.text.strip("\n")]
    if shown.next is not None:
        lines.append(f"(Characters 0 to {shown.next} of {shown.total}; get_session has the rest.)")
    lines.append(notes)
    for file in answered.files:
        line = f"- {one_line(file.name, 80)}: {file.uri}"
        room -= len(line.encode()) + 1
        if room < 0:
            break
        lines.append(line)
    return "\n".join(line for line in [*lines, last] if line)
