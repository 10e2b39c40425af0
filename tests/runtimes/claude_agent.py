"""What the agent of `claude_server.py` does: the prompt's first word says it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.runtimes.claude_server import Session

PAUSE = 0.02


async def work(session: Session, event: dict[str, Any]) -> None:
    """One event of the user, from `session.status_running` to a rest."""
    session.emit("session.status_running")
    # Shown again, now that it is processed.
    event["processed_at"] = session.server.tick().isoformat()
    session.show(event)
    if event["type"] == "user.tool_confirmation":
        denied = f"denied: {event.get('deny_message') or ''}".strip()
        session.say("allowed" if event["result"] == "allow" else denied)
        session.idle()
        return
    if event["type"] == "user.custom_tool_result":
        failed = " (failed)" if event.get("is_error") else ""
        session.say(f"you said: {_text(event['content'])}{failed}")
        session.idle()
        return
    skill, _, rest = _text(event["content"]).partition(" ")
    do = _SKILLS.get(skill)
    if do is None:
        await _words(session, f"{skill} {rest}".strip())
    elif await do(session, rest) is not None:
        return
    session.idle()


def _text(content: Any) -> str:
    return "".join(block.get("text", "") for block in content)


async def _words(session: Session, text: str) -> None:
    message_id = session.new_id()
    session.preview(message_id)
    for word in text.partition(" "):
        if word:
            session.preview(message_id, text=word)
    _whole(session, message_id, text)


def _whole(session: Session, message_id: str, text: str) -> None:
    session.emit("agent.message", event_id=message_id, content=[{"type": "text", "text": text}])


async def _slow(session: Session, rest: str) -> None:
    await _words(session, "first ")
    message_id = session.new_id()
    session.preview(message_id)
    chunks = [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))]
    for chunk in chunks:
        session.preview(message_id, text=chunk)
        await asyncio.sleep(PAUSE)
    _whole(session, message_id, "".join(chunks))


async def _recall(session: Session, rest: str) -> None:
    said = [_text(e["content"]) for e in session.events if e["type"] == "user.message"]
    notes = [text.partition(" ")[2] for text in said if text.startswith("remember ")]
    session.say("; ".join(notes) or "nothing yet")


async def _ask(session: Session, rest: str) -> bool:
    """Each word is a path that one tool use wants."""
    for path in rest.split() or ["x"]:
        made = session.emit(
            "agent.tool_use", name="bash", input={"path": path}, evaluated_permission="ask"
        )
        session.waiting[made["id"]] = "bash"
    session.idle("requires_action")
    return True


async def _call(session: Session, rest: str) -> bool:
    for name in rest.split() or ["lookup"]:
        made = session.emit("agent.custom_tool_use", name=name, input={"key": 1})
        session.waiting[made["id"]] = name
    session.idle("requires_action")
    return True


async def _tool(session: Session, rest: str) -> None:
    session.preview(session.new_id(), "agent.thinking")
    session.emit("agent.thinking")
    use = session.emit(
        "agent.mcp_tool_use",
        name="search",
        mcp_server_name="web",
        input={"q": "x"},
        evaluated_permission="allow",
    )
    found = [{"type": "text", "text": "found it"}]
    session.emit("agent.mcp_tool_result", mcp_tool_use_id=use["id"], content=found)
    session.say("used a tool")


async def _file(session: Session, rest: str) -> None:
    name = rest.split()[0]
    scope = {"id": session.id, "type": "session"}
    session.server.file(
        name, f"content of {rest}".encode(), "text/csv", downloadable=True, scope=scope
    )
    session.say("made a file")


async def _big(session: Session, rest: str) -> None:
    session.say("x" * int(rest))


async def _fail(session: Session, rest: str) -> bool:
    session.say("It began well.")
    for status in ("retrying", "exhausted"):
        error = {
            "type": "model_overloaded_error",
            "message": rest,
            "retry_status": {"type": status},
        }
        session.emit("session.error", error=error)
    session.idle("retries_exhausted")
    return True


async def _break(session: Session, rest: str) -> bool:
    """In the middle of a message, which is never finished."""
    message_id = session.new_id()
    session.preview(message_id)
    session.preview(message_id, text="It began well. ")
    error = {"type": "model_rate_limited_error", "message": rest}
    session.emit("session.error", error={**error, "retry_status": {"type": "exhausted"}})
    session.idle("retries_exhausted")
    return True


async def _refuse(session: Session, rest: str) -> bool:
    details = {"type": "refusal", "category": None, "explanation": rest}
    session.idle("refusal", stop_details=details)
    return True


async def _die(session: Session, rest: str) -> bool:
    error = {"type": "unknown_error", "message": rest, "retry_status": {"type": "terminal"}}
    session.emit("session.error", error=error)
    session.status = "terminated"
    session.emit("session.status_terminated")
    return True


async def _odd(session: Session, rest: str) -> None:
    """Events that no SDK knows yet."""
    session.show({"type": "agent.dreamt", "id": session.new_id(), "of": "sheep"})
    session.show({"type": "event_delta", "event_id": "", "delta": {"type": "new_delta"}})
    session.say("went on")


_SKILLS: dict[str, Any] = {
    "slow": _slow,
    "recall": _recall,
    "ask": _ask,
    "call": _call,
    "tool": _tool,
    "file": _file,
    "big": _big,
    "fail": _fail,
    "break": _break,
    "refuse": _refuse,
    "die": _die,
    "odd": _odd,
}
