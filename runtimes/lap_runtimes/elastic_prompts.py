"""What an Elastic agent asks, as our questions; answers, as it wants them.  No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lap_runtimes.base import Answer, Question
from lap_runtimes.errors import Rejected
from lap_runtimes.vendor_http import Json, mapping, mappings

Opened = dict[str, Any]
"""What an answer needs to know about its question: `type`, `prompt` (its id), and of a question
among several its `index` and `options`."""


def asked_of(prompt: Json, *, prefix: str, tool: Json) -> Iterator[tuple[Question, Opened]]:
    """The questions of a prompt.  `prefix` makes their ids unique in the session: Kibana calls a
    prompt by the permission that it asks for.  `tool` is the call that wants it, where known."""
    kind, prompt_id = str(prompt.get("type") or "confirmation"), str(prompt.get("id") or "")
    opened: Opened = {"type": kind, "prompt": prompt_id}
    question_id = f"{prefix}/{prompt_id}"
    if kind == "confirmation":
        words = [str(prompt[key]) for key in ("title", "message") if prompt.get(key)]
        given = tool.get("params")
        yield (
            Question(
                id=question_id,
                kind="approval",
                text="\n".join(words) or "May the agent go on?",
                tool=str(tool["tool_id"]) if tool.get("tool_id") else None,
                tool_input=given if isinstance(given, Mapping) else None,
            ),
            opened,
        )
    elif kind == "authorization":
        name = prompt.get("connector_name") or prompt.get("connector_id") or "a connector"
        text = f"Sign in to {name} in Kibana, then say that you have."
        yield Question(id=question_id, kind="auth", text=text), opened
    elif kind == "ask_user_question":
        for index, item in enumerate(mappings(prompt.get("questions"))):
            labels = [str(o.get("label") or "") for o in mappings(item.get("options"))]
            text = str(item.get("question") or "")
            each = {**opened, "index": index, "options": labels}
            yield (
                Question(id=f"{question_id}/{index}", kind="input", text=text, options=labels),
                each,
            )


def responses(answers: Sequence[Answer], open_questions: Any) -> dict[str, Any]:
    """`prompts` of the next request.  Raises `Rejected` unless all that is open is answered."""
    asked = mapping(open_questions or {})
    given = {answer.question_id: answer for answer in answers}
    missing = [question for question in asked if question not in given]
    unknown = [question for question in given if question not in asked]
    if missing or unknown or not given:
        words = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        raise Rejected(
            f"all open questions are answered at once ({words})", kind="invalid", sent=False
        )
    sent: dict[str, Any] = {}
    for question, opened in asked.items():
        answer = given[question]
        prompt = str(opened["prompt"])
        if opened["type"] == "ask_user_question":
            sent.setdefault(prompt, {"answers": []})["answers"].append(_chosen(opened, answer))
        elif opened["type"] == "authorization":
            sent[prompt] = {"authorized": answer.decision != "deny"}
        elif answer.decision is None:
            raise Rejected(f"{question} is to be allowed or denied", kind="invalid", sent=False)
        else:
            sent[prompt] = {"allow": answer.decision == "allow"}
    return sent


def _chosen(opened: Json, answer: Answer) -> dict[str, Any]:
    """One answer of several; `options` are chosen by their place."""
    if answer.decision == "deny":
        return {"skipped": True}
    options = [str(each) for each in opened.get("options") or ()]
    if answer.option is not None:
        if answer.option not in options:
            offered = ", ".join(options) or "none"
            raise Rejected(
                f"{answer.option!r} is none of the options: {offered}", kind="invalid", sent=False
            )
        chosen: dict[str, Any] = {"choice": [options.index(answer.option)]}
        return {**chosen, "custom": answer.text} if answer.text else chosen
    return {"custom": answer.text} if answer.text else {"skipped": True}
