"""A program that speaks ACP badly, by hand: `rough_agent.py FOLDER`.  The prompt says how."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
MANNER = sys.argv[2] if len(sys.argv) > 2 else ""
MEGABYTE = 1024 * 1024


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def send(**message: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")


def say(text: str) -> None:
    update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}
    send(method="session/update", params={"sessionId": "s1", "update": update})


def die() -> None:
    say("I am ")
    sys.stderr.write(f"fatal: out of memory, key {os.environ.get('KEY', 'none')}\n")
    sys.stderr.flush()
    os._exit(3)


def half() -> None:
    write('{"jsonrpc": "2.0", "method": "session/upd')
    os._exit(0)


def stderr() -> None:
    for _ in range(64):
        sys.stderr.write("e" * MEGABYTE)
    say("still here")


def noise() -> None:
    for number in range(2000):
        write(f"banner {number}\n")


def little_noise() -> None:
    write('\nloading…\n[1, 2]\nnull\n{"id": [1]}\n{"method": 7}\n')
    send(id=99, result="nobody asked")
    send(id="x", error="not an object")
    send(method="session/update", params=["s1"])
    send(method="session/update", params={"sessionId": "s1", "update": {"sessionUpdate": "new"}})
    send(method="session/update", params={"sessionId": "other", "update": {}})
    send(method="_vendor/note", params={})
    say("still here")


def endless_line() -> None:
    while True:
        write("x" * MEGABYTE)


def many_questions() -> str:
    for number in range(100):
        params = {"sessionId": "s1", "toolCall": {"toolCallId": str(number)}, "options": []}
        send(id=1000 + number, method="session/request_permission", params=params)
    return "later"


def fork() -> None:
    code = "import time; time.sleep(600)"
    for apart in (False, True):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=apart)
        (FOLDER / f"pid-{child.pid}").touch()
    say("forked")


def deaf() -> None:
    time.sleep(600)


def ask_form() -> str:
    form = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    params = {"sessionId": "s1", "mode": "form", "message": "how many?"}
    send(id=5, method="elicitation/create", params={**params, "requestedSchema": form})
    return "later"


MISDEEDS = {
    function.__name__.replace("_", " "): function
    for function in (
        die, half, stderr, noise, little_noise, endless_line, many_questions, fork, deaf, ask_form,
    )
}  # fmt: skip


def handle(message: dict[str, Any], method: str) -> None:
    """A request of the client; `session/cancel` has no id and no answer."""
    if method == "initialize" and MANNER != "never answers":
        version = 7 if MANNER == "another version" else 1
        send(id=message["id"], result={"protocolVersion": version})
    elif method == "session/new" and MANNER == "wants a login":
        send(id=message["id"], error={"code": -32000, "message": "Authentication required"})
    elif method == "session/new":
        send(id=message["id"], result={"sessionId": "s1"})
    elif method in ("authenticate", "session/set_mode"):
        (FOLDER / method.replace("/", "-")).write_text(json.dumps(message["params"]))
        send(id=message["id"], result={})
    elif method == "session/prompt":
        misdeed = MISDEEDS.get(message["params"]["prompt"][0]["text"])
        if misdeed is None or misdeed() != "later":
            send(id=message["id"], result={"stopReason": "end_turn"})


def answered(message: dict[str, Any], prompt: Any) -> None:
    (FOLDER / f"answer-{message['id']}").write_text(json.dumps(message))
    if message["id"] == 5:
        say(json.dumps(message["result"]))
        send(id=prompt, result={"stopReason": "refusal"})
    if message["id"] == 1000 + 99:
        say("declined")
        send(id=prompt, result={"stopReason": "max_tokens"})


def main() -> None:
    (FOLDER / f"pid-{os.getpid()}").touch()
    if MANNER == "ignores TERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prompt: Any = None
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method")
        if method is None:
            answered(message, prompt)
            continue
        prompt = message["id"] if method == "session/prompt" else prompt
        handle(message, method)
    if MANNER == "ignores TERM":
        time.sleep(600)


if __name__ == "__main__":
    main()
