"""The oracle of our fake of Cortex Agents: Snowflake's own SDK is its client, and every event that
it sends is validated by the SDK's model of it.  Run by `run`, in an environment of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT)]

TOKEN = "token-of-the-oracle"
TARGET = {"database": "DB", "schema": "SCH", "name": "SALES"}


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def main() -> None:
    from cortex_agent_sdk import CortexAgentClient, NotFoundError, PatAuth
    from cortex_agent_sdk.api import CortexAgentClient as Direct
    from cortex_agent_sdk.models import parse_event
    from pydantic import BaseModel

    from tests.runtimes.snowflake_server import Server

    server = Server(token=TOKEN)
    checks = 0
    with serving(server.app) as url:
        direct = Direct(base_url=url, auth=PatAuth(TOKEN), max_retries=0)
        (agent,) = direct.agent.list(database="DB", schema="SCH")
        assert agent["name"] == "SALES"
        for prompt in (
            "hello",
            "slow 3",
            "tool",
            "file a",
            "chart",
            "ask rm",
            "call t",
            "elicit ?",
        ):
            thread = direct.threads.create(origin_application="oracle")["thread_id"]
            content = [{"type": "text", "text": prompt}]
            body = {"thread_id": thread, "parent_message_id": 0, "stream": True}
            body["messages"] = [{"role": "user", "content": content}]
            run = ""
            for event in direct.agent.run_data(body, target=TARGET):
                parsed = parse_event(event)
                known = isinstance(parsed, BaseModel)
                assert known or event["event"] == "response.shiny_new_thing", event["event"]
                checks += known
                run = (event.get("metadata") or {}).get("run_id") or run
            replayed = list(direct.runs.stream(run, starting_after=1))
            assert replayed[0]["sequence_number"] == 2
            kept = direct.threads.describe(thread)["messages"]
            assert [message["role"] for message in kept] == ["assistant", "user"]
        talk = CortexAgentClient(base_url=url, auth=PatAuth(TOKEN), max_retries=0)
        conversation = talk.conversations.create(agent={"type": "data", "spec": TARGET})
        turn = conversation.send("ask rm")
        (request,) = turn.permission_requests()
        assert request.options == ("Allow Once", "Allow for this session", "Deny")
        answered = conversation.send_permission_decisions([(request, "Deny", "no")])
        assert answered.result().text == "denied no"
        slow = conversation.send("slow 500")
        slow.cancel()
        assert slow.result().status == "cancelled"
        assert conversation.send("recall").result().text == "nothing yet"
        with contextlib.suppress(NotFoundError):
            raise AssertionError(f"found a thread that is not there: {direct.threads.describe(1)}")
    print(f"the SDK is content: {checks} events validated")


if __name__ == "__main__":
    main()
