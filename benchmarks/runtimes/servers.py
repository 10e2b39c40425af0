"""A server that the tests of adapters use, in a process of its own:

    python -m benchmarks.runtimes.servers agentcore|responses

`KEY` in the environment is the key it wants.  The first line on stdout is its address; it ends with
stdin.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any

import uvicorn


def app(name: str) -> Any:
    if name == "agentcore":
        from tests.runtimes.agentcore_server import Server as AgentCore

        return AgentCore(key=os.environ["KEY"]).app
    from tests.runtimes.responses_server import Server as Responses

    return Responses().app


def end_with_stdin() -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    served = app(sys.argv[1])
    end_with_stdin()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(served, log_level="critical")).run(sockets=[listener])


if __name__ == "__main__":
    main()
