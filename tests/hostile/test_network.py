"""Cases 33, 34 and 41 to 43: code that wants to talk to somebody."""

from __future__ import annotations

import pytest
from lap_sandbox.base import Sandbox

from tests.hostile.attacks import Attack, attempt, run, value

pytestmark = pytest.mark.anyio

ATTACKS = [
    Attack(41, "internet", "import socket; socket.create_connection(('1.1.1.1', 80), 1)",
           ("error",), "Address family not supported"),
    Attack(41, "names", "import socket; socket.getaddrinfo('example.com', 80)", ("error",),
           "gaierror"),
    Attack(41, "loopback", "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
           ("error",), "Address family not supported"),
    Attack(42, "web", "import urllib.request as u; u.urlopen('http://169.254.169.254/', timeout=2)",
           ("error",)),
    Attack(42, "pip", "%pip install requests", ("error",), "no network"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
async def test_nobody_answers_and_that_is_known_at_once(attack: Attack, sandbox: Sandbox) -> None:
    execution = await attempt(attack, sandbox)
    assert execution.cpu < 2


async def test_33_34_41_only_local_sockets_can_be_made(sandbox: Sandbox) -> None:
    """AF_ALG, AF_VSOCK, AF_NETLINK, AF_PACKET, AF_INET and AF_INET6."""
    code = (
        "import socket\n"
        "def attempt(family, kind=socket.SOCK_STREAM):\n"
        "    try: socket.socket(family, kind).close(); return 'made'\n"
        "    except OSError as e: return e.errno\n"
        "[attempt(f) for f in (1, 2, 10, 16, 17, 38, 40)], attempt(2, 3)"
    )
    assert await value(sandbox, code) == "(['made', 97, 97, 97, 97, 97, 97], 97)"


async def test_43_a_socket_without_a_file_is_not_seen_next_door(
    sandbox: Sandbox, neighbour: Sandbox
) -> None:
    listen = "import socket; s = socket.socket(1); s.bind('\\0meet'); s.listen(); 'listening'"
    assert await value(sandbox, listen) == "'listening'"
    call = "import socket; socket.socket(1).connect('\\0meet')"
    assert (await run(sandbox, call)).status == "ok"
    refused = await run(neighbour, call)
    assert refused.error is not None
    assert refused.error.name == "ConnectionRefusedError"
