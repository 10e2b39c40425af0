"""A Responses request as a Chat Completions request, for upstreams that speak only that.  Pure.

What has no counterpart there is refused in words; fields that nobody here knows go along as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .wire import Json, bad, encode, mapping, sequence

_RENAMED: Final[Mapping[str, str]] = {"max_output_tokens": "max_completion_tokens"}
_TRANSLATED: Final = frozenset(
    {
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "top_logprobs",
        "store",
        "stream_options",
        "previous_response_id",
        "truncation",
        "conversation",
        "prompt",
        "max_tool_calls",
        "context_management",
        "background",
    }
)


def chat_request(body: Mapping[str, Any]) -> Json:
    """Raises: ApiError."""
    _refuse(body)
    chat: Json = {
        _RENAMED.get(key, key): value
        for key, value in body.items()
        if key not in _TRANSLATED and value is not None
    }
    chat["messages"] = messages(body.get("instructions"), sequence(body.get("input")))
    tools = [_tool(tool) for tool in sequence(body.get("tools"))]
    if tools:
        chat["tools"] = tools
        if (choice := _choice(body.get("tool_choice"))) is not None:
            chat["tool_choice"] = choice
    else:
        chat.pop("parallel_tool_calls", None)
    text = mapping(body.get("text"))
    if (form := _format(mapping(text.get("format")))) is not None:
        chat["response_format"] = form
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    if (effort := mapping(body.get("reasoning")).get("effort")) is not None:
        chat["reasoning_effort"] = effort
    if body.get("top_logprobs") is not None:
        chat |= {"logprobs": True, "top_logprobs": body["top_logprobs"]}
    chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def _refuse(body: Mapping[str, Any]) -> None:
    words = "the server of this model speaks Chat Completions only"
    if body.get("truncation") not in (None, "disabled"):
        raise bad(f"truncation cannot be {body['truncation']!r}: {words}.", "truncation")
    for key in ("conversation", "prompt", "context_management"):
        if body.get(key) is not None:
            raise bad(f"{key} cannot be used: {words}.", key)


def messages(instructions: Any, items: Sequence[Any]) -> list[Json]:
    """Raises: ApiError, for items that such an upstream cannot be told."""
    found: list[Json] = []
    if isinstance(instructions, str) and instructions:
        found.append({"role": "system", "content": instructions})
    pictures: list[Json] = []
    for item in items:
        each = mapping(item)
        kind = each.get("type", "message")
        if pictures and kind != "function_call_output":
            found.append({"role": "user", "content": pictures})
            pictures = []
        match kind:
            case "message":
                found.append(_message(each))
            case "function_call":
                _call(found, each)
            case "function_call_output":
                told, shown = _output(each.get("output"))
                call_id = each.get("call_id")
                found.append({"role": "tool", "tool_call_id": call_id, "content": told})
                pictures += shown
            case "reasoning":
                _reasoning(found, each)
            case _:
                raise bad(
                    f"Input items of type {kind!r} cannot be sent: the server of this model "
                    "speaks Chat Completions only.",
                    "input",
                )
    if pictures:
        found.append({"role": "user", "content": pictures})
    return found


def _message(item: Json) -> Json:
    role = str(item.get("role", "user"))
    content = item.get("content")
    if isinstance(content, list):
        parts = [_part(mapping(part)) for part in content]
        plain = all(part.get("type") == "text" for part in parts)
        content = "".join(part["text"] for part in parts) if plain else parts
    return {"role": "system" if role == "developer" else role, "content": content}


def _part(part: Json) -> Json:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": str(part.get("text", ""))}
        case "refusal":
            return {"type": "text", "text": str(part.get("refusal", ""))}
        case "input_image":
            return _image(part)
        case "input_file" if part.get("file_data"):
            file = {"filename": part.get("filename"), "file_data": part["file_data"]}
            return {"type": "file", "file": file}
        case "input_audio":
            return part
    raise bad(f"Content of type {part.get('type')!r} cannot be sent to this model.", "input")


def _image(part: Json) -> Json:
    url = {"url": part.get("image_url")}
    if part.get("detail") is not None:
        url["detail"] = part["detail"]
    return {"type": "image_url", "image_url": url}


def _call(found: list[Json], item: Json) -> None:
    """Calls that follow each other are one message of the assistant."""
    call = {
        "id": item.get("call_id"),
        "type": "function",
        "function": {"name": item.get("name"), "arguments": item.get("arguments") or "{}"},
    }
    last = found[-1] if found else {}
    if last.get("role") == "assistant":
        last.setdefault("content", None)
        last.setdefault("tool_calls", []).append(call)
    else:
        found.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _reasoning(found: list[Json], item: Json) -> None:
    """Models that show their reasoning want it back while they call tools."""
    text = "".join(str(mapping(part).get("text", "")) for part in sequence(item.get("content")))
    if text:
        found.append({"role": "assistant", "content": None, "reasoning_content": text})


def _output(output: Any) -> tuple[str, list[Json]]:
    """What a tool said as text, and pictures, which only a user can show here."""
    if isinstance(output, str):
        return output, []
    parts = [mapping(part) for part in sequence(output)]
    told = "\n".join(str(part["text"]) for part in parts if isinstance(part.get("text"), str))
    shown = [_image(part) for part in parts if part.get("type") == "input_image"]
    if not isinstance(output, list):
        return encode(output).decode(), []
    return told, shown


def _tool(tool: Any) -> Json:
    found = mapping(tool)
    kind = found.get("type")
    if kind not in ("function", "custom"):
        raise bad(
            f"Tools of type {kind!r} cannot be used: the server of this model speaks Chat "
            "Completions only, which has functions.",
            "tools",
        )
    inner = {key: value for key, value in found.items() if key != "type" and value is not None}
    if kind == "custom":
        form = inner.get("format")
        if mapping(form).get("type") == "grammar":
            grammar = {key: value for key, value in mapping(form).items() if key != "type"}
            inner["format"] = {"type": "grammar", "grammar": grammar}
        return {"type": "custom", "custom": inner}
    return {"type": "function", "function": inner}


def _choice(choice: Any) -> Any:
    if choice is None or isinstance(choice, str):
        return choice
    match choice.get("type"):
        case "function" | "custom":
            kind = choice["type"]
            return {"type": kind, kind: {"name": choice.get("name")}}
        case "allowed_tools":
            named = [_choice(tool) for tool in sequence(choice.get("tools"))]
            allowed = {"mode": choice.get("mode", "auto"), "tools": named}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    raise bad(f"tool_choice {choice.get('type')!r} cannot be used with this model.", "tool_choice")


def _format(form: Json) -> Json | None:
    kind = form.get("type")
    if kind == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"} if kind == "json_object" else None
