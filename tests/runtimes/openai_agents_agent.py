"""What the agent of `openai_agents_server.py` does: the prompt's first word says it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.runtimes.openai_agents_server import Session

PAUSE = 0.02


async def work(session: Session, prompt: str) -> None:
    """One turn of the vendor's, from its beginning to the session's rest."""
    await asyncio.sleep(0)
    skill, _, rest = prompt.partition(" ")
    do = _SKILLS.get(skill)
    if do is None:
        await _words(session, [f"{word} " for word in prompt.split()[:-1]] + prompt.split()[-1:])
    elif await do(session, rest) is not None:
        return
    session.close("completed")
    session.rest("idle")


def say(session: Session, text: str, item_id: str = "") -> None:
    content = [{"type": "output_text", "text": text}]
    given = {"id": item_id} if item_id else {}
    session.item(type="message", role="assistant", status="completed", content=content, **given)


async def _words(session: Session, words: list[str], pause: float = 0) -> None:
    item_id = f"msg_{next(session.server.numbers)}"
    where = {"content_index": 0, "item_id": item_id, "output_index": len(session.items)}
    for word in words:
        session.emit_turn("output_text.delta", delta=word, **where)
        if pause:
            await asyncio.sleep(pause)
    say(session, "".join(words), item_id)


async def _slow(session: Session, rest: str) -> None:
    await _words(session, ["first "])
    await _words(session, [f"chunk {n + 1} of {rest}\n" for n in range(int(rest))], PAUSE)


async def _recall(session: Session, rest: str) -> None:
    said = [i["content"][0]["text"] for i in session.items if i.get("role") == "user"]
    notes = [text.partition(" ")[2] for text in said if text.startswith("remember ")]
    say(session, "; ".join(notes) or "nothing yet")


async def _answered(session: Session, actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What comes back for these required actions."""
    session.answered.clear()
    session.actions = list(actions)
    session.turn["status"] = "waiting"
    session.rest("requires_action")
    await session.answered.wait()
    session.turn["status"] = "in_progress"
    session.emit("agent.session.in_progress", session=session.as_json())
    return [session.answers[a.get("call_id") or a["request_id"]] for a in actions]


async def _ask(session: Session, rest: str) -> None:
    say(session, "may I?")
    turn = session.turn["id"]
    request = {
        "type": "mcp_tool_call",
        "server_label": "files",
        "name": "delete_file",
        "arguments": {"path": rest},
        "message": f"Delete {rest}?",
    }
    action = {"type": "mcp_approval_request", "request": request, "turn_id": turn}
    (answer,) = await _answered(session, [{**action, "request_id": f"appr_{turn}"}])
    said = answer["response"]["decision"]
    say(session, "allowed" if said == "approve" else "denied")


async def _call(session: Session, rest: str) -> None:
    turn = session.turn["id"]
    actions = []
    for number, name in enumerate(rest.split() or ["lookup"]):
        call = {"call_id": f"call_{turn}_{number}", "name": name, "arguments": {"key": 1}}
        session.item(type="function_call", status="completed", **call)
        actions.append({"type": "function_call", "turn_id": turn, **call})
    for answer in await _answered(session, actions):
        about = {"call_id": answer["call_id"], "type": "function_call_output"}
        session.item(status="completed", output=answer.get("output"), **about)
        failed = "" if answer["success"] else f"failed: {answer['error']}"
        say(session, f"you said: {answer.get('output') or failed}")


async def _browse(session: Session, rest: str) -> None:
    turn = session.turn["id"]
    request: dict[str, Any] = {"type": "browser_origin_access", "origin": rest}
    if rest == "login":
        field = {"id": "f", "label": "Password", "required": True, "type": "password"}
        request = {"type": "browser_authentication", "fields": [field], "options": []}
        request["credential_origin"] = "https://example.com"
    action = {"type": "computer_use_approval_request", "request": request, "turn_id": turn}
    (answer,) = await _answered(session, [{**action, "request_id": f"cua_{turn}"}])
    response = answer["response"]
    say(session, f"{response.get('decision') or response['action']}")


async def _tool(session: Session, rest: str) -> None:
    thought = f"rs_{next(session.server.numbers)}"
    where = {"item_id": thought, "output_index": 0, "summary_index": 0}
    session.emit_turn("reasoning_summary_text.delta", delta="thinking", **where)
    summary = [{"type": "summary_text", "text": "thinking hard"}]
    session.item(type="reasoning", id=thought, summary=summary)
    session.item(
        type="mcp_call",
        name="search",
        server_label="web",
        arguments={"q": "x"},
        output={"content": [{"type": "text", "text": "found it"}]},
        error=None,
        status="completed",
    )
    session.item(
        type="command_execution",
        command="false",
        cwd="/workspace",
        exit_code=1,
        output="",
        status="failed",
    )
    action = {"type": "search", "query": "cats"}
    session.item(type="web_search_call", action=action, status="completed")
    say(session, "used tools")


async def _file(session: Session, rest: str) -> None:
    data = f"content of {rest}".encode()
    session.server.artifact(session, f"/workspace/{rest.split()[0]}", data)
    say(session, "made a file")


async def _big(session: Session, rest: str) -> None:
    say(session, "x" * int(rest))


async def _fail(session: Session, rest: str) -> bool:
    say(session, "It began well.")
    session.close("failed", {"code": "server_overloaded", "message": rest})
    session.rest("idle")
    return True


async def _break(session: Session, rest: str) -> bool:
    """In the middle of a message, which is never finished."""
    where = {"content_index": 0, "item_id": "msg_half", "output_index": len(session.items)}
    session.emit_turn("output_text.delta", delta="It began well. ", **where)
    session.close("failed", {"code": "rate_limit_exceeded", "message": rest})
    session.rest("idle")
    return True


async def _die(session: Session, rest: str) -> bool:
    session.close("failed", {"code": "sandbox_error", "message": rest})
    session.rest("failed")
    return True


async def _spend(session: Session, rest: str) -> bool:
    session.close("completed")
    session.rest("budget_reached")
    return True


async def _odd(session: Session, rest: str) -> None:
    """Events that no SDK knows yet, and those of a subagent."""
    turn = {**session.turn, "id": "turn_sub", "subagent_id": "sub_1"}
    about = {"session_id": session.id, "turn_id": "turn_sub"}
    session.emit("agent.session.turn.created", turn=turn, **about)
    where = {"content_index": 0, "item_id": "msg_sub", "output_index": 0}
    session.emit("agent.session.turn.output_text.delta", delta="psst", **about, **where)
    done = {**turn, "status": "completed"}
    session.emit("agent.session.turn.completed", turn=done, **about)
    for queue in session.listeners:
        queue.put_nowait({"type": "agent.session.dreamt", "event_id": "e", "of": "sheep"})
    say(session, "went on")


_SKILLS: dict[str, Any] = {
    "slow": _slow,
    "recall": _recall,
    "ask": _ask,
    "call": _call,
    "browse": _browse,
    "tool": _tool,
    "file": _file,
    "big": _big,
    "fail": _fail,
    "break": _break,
    "die": _die,
    "spend": _spend,
    "odd": _odd,
}
