"""What a model is told about the interpreter, and how it is called upstream.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from .wire import Json

NAMES: Final = ("python", "python_interpreter", "lap_python")
"""`python` is what models know OpenAI's own tool by; the others where a client's tool has it."""

DESCRIPTION: Final = (
    "Runs Python in an isolated sandbox and shows standard output, standard error, the value of "
    "the last expression, figures and new files. Variables, imports and files stay between calls. "
    "numpy, pandas and matplotlib are installed. There is no network, so nothing can be downloaded "
    "or installed. Files of the user are in /mnt/data; write files for the user there too. Show a "
    "figure with plt.show(). To give the user a file, link it in your answer exactly like this: "
    "[report.csv](sandbox:/mnt/data/report.csv). Link only files that exist. Print only what you "
    "need."
)

PARAMETERS: Final[Json] = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "Python source code."}},
    "required": ["code"],
    "additionalProperties": False,
}


def free_name(taken: Iterable[str]) -> str:
    """A name that none of the client's own tools has."""
    used = set(taken)
    for name in NAMES:
        if name not in used:
            return name
    number = 2
    while f"python_{number}" in used:
        number += 1
    return f"python_{number}"


def as_responses_tool(name: str) -> Json:
    return {
        "type": "function",
        "name": name,
        "description": DESCRIPTION,
        "parameters": PARAMETERS,
        "strict": True,
    }


def as_chat_tool(name: str) -> Json:
    function = {"name": name, "description": DESCRIPTION, "parameters": PARAMETERS}
    return {"type": "function", "function": function}


def broken_call(problem: str) -> str:
    """What a model is told whose call could not be read."""
    return (
        f"The code was not run: {problem}. Call the tool again with one JSON object, "
        '{"code": "…"}, the code as its text.'
    )


TOO_MANY: Final = (
    "The code was not run: this response may make no more tool calls. Answer with what you have."
)


def names_of(tools: Iterable[Any]) -> Iterable[str]:
    """Names of functions and custom tools, of both wire forms."""
    for tool in tools:
        if isinstance(tool, Mapping):
            inner = tool.get("function")
            name = inner.get("name") if isinstance(inner, Mapping) else tool.get("name")
            if isinstance(name, str):
                yield name
