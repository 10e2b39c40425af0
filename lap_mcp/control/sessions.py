"""Sessions: the use cases that faces call.  Background work is elsewhere; this file decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import Connection

from lap_mcp.clock import new_id
from lap_mcp.errors import Invalid, LimitReached, Unavailable
from lap_mcp.model import (
    Agent,
    Delta,
    Origin,
    Principal,
    Question,
    Session,
    SessionFile,
    StoredEvent,
    Turn,
)
from lap_mcp.store import events as event_store
from lap_mcp.store import files as file_store
from lap_mcp.store import questions as question_store
from lap_mcp.store import turns as turn_store
from lap_mcp.store.turns import NewTurn

from . import cancelling, following, handing_over, interjecting
from .accepting import Decision, Prompted, accept
from .answering import Answering
from .detached import to_its_end
from .engine import Engine
from .jobs import digest_of, whole_text
from .prompt_files import GivenFile, GivenFiles
from .runners import Runners
from .services import Accepted, Followed, NewAnswer, NewPrompt, TurnContent
from .storable import NOT_TEXT, storable

T = TypeVar("T")

_PAGE = 10_000
_FEW = 8
"""Messages that are read at once; a turn with as many is read in a thread."""

_Given = tuple[Sequence[StoredEvent], Sequence[SessionFile], Sequence[Delta]]


class Sessions:
    """Implements `services.SessionsAPI`."""

    def __init__(self, engine: Engine, runners: Runners, given: GivenFiles) -> None:
        self._engine = engine
        self._runners = runners
        self._given = given
        self._answering = Answering(engine, runners)

    async def prompt(
        self,
        origin: Origin,
        agent: str,
        prompt: NewPrompt,
        *,
        session_id: str | None = None,
    ) -> Accepted:
        found = self._engine.runtimes.agent(agent)
        if not found.enabled:
            raise Unavailable(f"{agent} cannot be used now: {found.problem}")
        origin = replace(origin, chain=origin.chain or origin.principal.chain)
        _chain(origin, agent, self._engine.limits.depth)
        self._fits(found, prompt, session_id)
        if prompt.from_session:
            if session_id is not None:
                handing_over.refuse_into(session_id)
            handed = await handing_over.with_transcript(self._engine, origin, prompt)
            prompt, origin = handed.prompt, handed.origin
        prompted = await self._prepared(origin, found, prompt, session_id)
        return await self._detached(lambda: self._accept(prompted, prompt), "prompt")

    def _fits(self, agent: Agent, prompt: NewPrompt, session_id: str | None) -> None:
        """Raises: LimitReached, Invalid, where the agent cannot take such a prompt."""
        if len(prompt.text) > self._engine.limits.prompt:
            raise LimitReached(
                f"The prompt has {len(prompt.text)} characters; {self._engine.limits.prompt} is "
                "the limit.",
                remedy="Give the long part as a file.",
            )
        if storable([prompt.text, prompt.input]) != [prompt.text, prompt.input]:
            raise Invalid(f"The prompt {NOT_TEXT}.")
        capabilities = self._engine.runtimes.runtime_for(agent).capabilities
        if session_id is not None and capabilities.conversation == "none":
            raise Invalid(
                f"{agent.name} keeps no conversation: each call stands alone.",
                remedy="Leave the session out.",
            )
        if prompt.files and not capabilities.files_in:
            raise Invalid(f"{agent.name} takes no files: its runtime ({agent.runtime}) has no way.")

    async def _prepared(
        self, origin: Origin, agent: Agent, prompt: NewPrompt, session_id: str | None
    ) -> Prompted:
        given = await self._given.read(origin.principal, prompt.files)
        turn_id, now = new_id("trn"), self._engine.clock.now()
        kept = [await self._keep(file, turn_id, now) for file in given]
        entries = [
            {"name": f.name, "media_type": f.media_type, "size": f.size, "sha256": f.sha256}
            for f in kept
        ]
        return Prompted(
            origin=origin,
            agent=agent,
            session_id=session_id,
            text=prompt.text,
            new=NewTurn(
                id=turn_id,
                prompt=prompt.text,
                input=prompt.input,
                files=entries,
                digest=digest_of(prompt.text, prompt.input, entries),
                origin=origin,
            ),
            files=kept,
            steer=prompt.steer,
            owner=self._engine.owner,
            dead=await self._runners.dead() if session_id or prompt.from_session else (),
            now=now,
        )

    async def _accept(self, prompted: Prompted, prompt: NewPrompt) -> Accepted:
        limits = self._engine.limits
        decision = await self._engine.database.write(
            lambda connection: accept(connection, prompted, limits), quick=True
        )
        return await self._act(decision, prompt)

    async def _detached(self, function: Callable[[], Awaitable[T]], name: str) -> T:
        return await to_its_end(self._engine, function, name)

    async def _keep(self, file: GivenFile, turn_id: str, now: float) -> SessionFile:
        return SessionFile(
            session_id="",
            name=file.name,
            media_type=file.media_type,
            size=len(file.data),
            sha256=await self._engine.blobs.put(file.data),
            turn_id=turn_id,
            origin="user",
            at=now,
        )

    async def _act(self, decision: Decision, prompt: NewPrompt) -> Accepted:
        session, turn = decision.session, decision.turn
        if decision.kind == "run" and decision.lease is not None:
            self._engine.hub.get(session.id).publish(decision.stored)
            self._runners.run(decision.lease, turn.id, record=decision.record)
            self._tell_handed(decision.handed)
        elif decision.kind == "steer":
            await self._steer(session, turn, prompt)
            return Accepted(session=session, turn=turn, steered=True)
        elif decision.kind == "answers" and decision.question is not None:
            turn = await self._answering.answer(
                decision.question, NewAnswer(text=prompt.text, data=prompt.input), by="prompt"
            )
            session = await self.get(Principal(id=session.principal), session.id)
        return Accepted(session=session, turn=turn, joined=decision.kind == "joined")

    def _tell_handed(self, events: Sequence[StoredEvent]) -> None:
        """Those who follow the session that was handed over see it at once."""
        for event in events:
            live = self._engine.hub.find(event.session_id)
            if live is not None:
                live.publish([event])

    async def _steer(self, session: Session, turn: Turn, prompt: NewPrompt) -> None:
        agent = self._engine.runtimes.agent(session.agent)
        if not self._engine.runtimes.runtime_for(agent).capabilities.steer:
            raise Invalid(
                f"{agent.name} cannot be steered: its runtime ({agent.runtime}) has no way.",
                remedy="Send the prompt without steer; it is queued.",
            )
        await interjecting.steer(self._engine, self._runners, session.id, turn.id, prompt.text)

    async def get(self, principal: Principal, session_id: str) -> Session:
        return await self._engine.database.read(
            lambda connection: turn_store.find_session(connection, principal.id, session_id)
        )

    async def turn(self, principal: Principal, session_id: str, turn_id: str) -> Turn:
        return await self._engine.database.read(
            lambda connection: turn_store.find_owned(connection, principal.id, session_id, turn_id)
        )

    async def turns(self, principal: Principal, session_id: str) -> Sequence[Turn]:
        def query(connection: Connection) -> Sequence[Turn]:
            turn_store.find_session(connection, principal.id, session_id)
            return turn_store.of_session(connection, session_id)

        return await self._engine.database.read(query)

    async def list(
        self,
        principal: Principal,
        *,
        agent: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[Session]:
        return await self._engine.database.read(
            lambda connection: turn_store.list_sessions(
                connection,
                principal.id,
                agent=agent,
                status=status,
                limit=max(1, min(limit, 500)),
                before=before,
            )
        )

    async def events(
        self, principal: Principal, session_id: str, *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredEvent]:
        def query(connection: Connection) -> Sequence[StoredEvent]:
            turn_store.find_session(connection, principal.id, session_id)
            return event_store.read(connection, session_id, after=after, limit=limit)

        return await self._engine.database.read(query)

    def follow(
        self, principal: Principal, session_id: str, *, after: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[Followed]]:
        return self._follow(principal, session_id, after)

    @asynccontextmanager
    async def _follow(
        self, principal: Principal, session_id: str, after: int
    ) -> AsyncIterator[AsyncIterator[Followed]]:
        await self.get(principal, session_id)
        async with following.follow(self._engine, session_id, after) as items:
            yield items

    async def wait(
        self, principal: Principal, session_id: str, turn_id: str, *, timeout: float
    ) -> Turn:
        return await following.wait(self._engine, principal.id, session_id, turn_id, timeout)

    async def content(self, principal: Principal, session_id: str, turn_id: str) -> TurnContent:
        text = self._engine.hub.answers.take(principal.id, session_id, turn_id)
        if text is not None:
            return TurnContent(text=text, files=[])
        live = self._engine.hub.find(session_id)
        here = live is not None and live.driven
        # Before the stored ones: what is finished meanwhile is then seen twice, not missed.
        open_ = live.snapshot() if live is not None and here else ()

        def query(connection: Connection, limit: int) -> _Given:
            turn_store.find_session(connection, principal.id, session_id)
            said = event_store.read(
                connection, session_id, turn_id=turn_id, types=["agent.message"], limit=limit
            )
            files = file_store.of_session(connection, session_id)
            return said, files, open_ if here else event_store.checkpoints(connection, session_id)

        database = self._engine.database
        given = await database.read(lambda connection: query(connection, _FEW), quick=True)
        if len(given[0]) == _FEW:
            given = await database.read(lambda connection: query(connection, _PAGE))
        said, files, open_ = given
        finished = {event.payload["id"] for event in said}
        parts = [await whole_text(self._engine.blobs, event.payload) for event in said]
        parts += [
            delta.text
            for delta in open_
            if delta.turn_id == turn_id
            and delta.kind == "message"
            and delta.message_id not in finished
        ]
        return TurnContent(
            text="\n\n".join(part for part in parts if part),
            files=[file for file in files if file.turn_id == turn_id and file.origin == "agent"],
        )

    async def questions(
        self,
        principal: Principal,
        *,
        session_id: str | None = None,
        status: str | None = "open",
    ) -> Sequence[Question]:
        return await self._engine.database.read(
            lambda connection: question_store.list_questions(
                connection, principal.id, session_id=session_id, status=status
            )
        )

    async def answer(
        self, principal: Principal, question_id: str, answer: NewAnswer, *, by: str
    ) -> Turn:
        if principal.chain:
            raise Invalid(
                "This call comes from inside an agent's session; such calls never answer "
                "questions.",
                remedy="A person answers with `lap-mcp questions`.",
            )
        question = await self._engine.database.read(
            lambda connection: question_store.find(connection, principal.id, question_id)
        )
        return await self._detached(
            lambda: self._answering.answer(question, answer, by=by), "answer"
        )

    async def cancel(
        self, principal: Principal, session_id: str, *, turn_id: str | None = None
    ) -> Session:
        await self.get(principal, session_id)
        engine, runners = self._engine, self._runners
        if turn_id is None:
            await self._detached(lambda: cancelling.cancel(engine, runners, session_id), "cancel")
        else:
            await self._detached(
                lambda: cancelling.cancel_turn(engine, runners, session_id, turn_id), "cancel"
            )
        return await self.get(principal, session_id)

    async def files(self, principal: Principal, session_id: str) -> Sequence[SessionFile]:
        def query(connection: Connection) -> Sequence[SessionFile]:
            turn_store.find_session(connection, principal.id, session_id)
            return file_store.of_session(connection, session_id)

        return await self._engine.database.read(query)

    async def file(
        self, principal: Principal, session_id: str, name: str
    ) -> tuple[SessionFile, bytes]:
        def query(connection: Connection) -> SessionFile:
            turn_store.find_session(connection, principal.id, session_id)
            return file_store.find(connection, session_id, name)

        file = await self._engine.database.read(query)
        return file, await self._engine.blobs.get(file.sha256)


def _chain(origin: Origin, agent: str, depth: int) -> None:
    path = " → ".join([*origin.chain, agent])
    if agent in origin.chain:
        raise Invalid(f"This call would go in a circle: {path}.")
    if len(origin.chain) >= depth:
        raise Invalid(f"Agents call agents at most {depth} deep (limits.depth): {path}.")
