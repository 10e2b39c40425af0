"""Calls that block, and what they make when nobody waits any more; HTTP over a unix socket."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import requests
from lap_sandbox import blocking
from lap_sandbox.unix_transport import UnixAdapter

from tests.waiting import eventually_async

ADDRESS = "http+docker://localhost/_ping"


@pytest.mark.anyio
async def test_what_a_call_makes_after_its_deadline_is_given_back() -> None:
    released: list[str] = []
    go_on = threading.Event()

    def make() -> str:
        go_on.wait(30)
        return "made"

    # Long enough for the thread to begin: else there would be nothing to be given back.
    with pytest.raises(TimeoutError):
        await blocking.call(make, 1.0, released.append)
    assert released == []
    go_on.set()
    await eventually_async(lambda: released == ["made"])


@pytest.mark.anyio
async def test_a_lasting_call_gives_and_raises_what_its_work_does() -> None:
    assert await blocking.call_lasting(lambda: "made", 30) == "made"
    with pytest.raises(ZeroDivisionError):
        await blocking.call_lasting(lambda: 1 // 0, 30)
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        await blocking.call_lasting(lambda: go_on.wait(30), 0.05)
    go_on.set()


def test_the_end_of_the_program_does_not_wait_for_a_lasting_call() -> None:
    code = (
        "import anyio, threading\nfrom lap_sandbox import blocking\n"
        "async def main():\n"
        "    with anyio.move_on_after(0.2):\n"
        "        await blocking.call_lasting(lambda: threading.Event().wait(600), 600)\n"
        "anyio.run(main)\nprint('ended')"
    )
    path = str(Path(blocking.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, timeout=60
    )
    assert done.stdout == b"ended\n", done.stderr


@pytest.mark.anyio
async def test_what_somebody_got_is_not_given_back() -> None:
    released: list[str] = []
    assert await blocking.call(lambda: "made", 30, released.append) == "made"
    with pytest.raises(ZeroDivisionError):
        await blocking.call(lambda: str(1 // 0), 30, released.append)
    assert released == []


@pytest.mark.anyio
async def test_what_a_call_makes_for_a_caller_that_was_cancelled_is_given_back() -> None:
    released: list[str] = []
    began, go_on = anyio.Event(), threading.Event()

    def make() -> str:
        anyio.from_thread.run_sync(began.set)
        go_on.wait(30)
        return "made"

    async with anyio.create_task_group() as group:
        group.start_soon(blocking.call, make, 30.0, released.append)
        await began.wait()
        group.cancel_scope.cancel()
    go_on.set()
    await eventually_async(lambda: released == ["made"])


@pytest.fixture
def session(tmp_path: Path) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.mount("http+docker://", UnixAdapter(str(tmp_path / "s"), 10.0, 4))
        yield made


class Server(threading.Thread):
    """Answers each request of each connection with the number of that connection."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.settimeout(30)
        self.asked: list[bytes] = []
        self.start()

    def run(self) -> None:
        for number in (b"1", b"2"):
            connection, _ = self._listening.accept()
            with connection:
                while request := connection.recv(4096):
                    self.asked.append(request.partition(b"\r\n")[0])
                    if b"/bye" in request:
                        break
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + number)

    def close(self) -> None:
        self.join(30)
        self._listening.close()


def test_a_connection_serves_all_addresses_and_another_is_made_where_it_ended(
    session: requests.Session, tmp_path: Path
) -> None:
    server = Server(tmp_path / "s")
    assert session.get(ADDRESS, params={"a": "b c"}).text == "1"
    assert session.get("http+docker://localhost/containers/json").text == "1"
    with pytest.raises(requests.exceptions.ConnectionError):
        session.post("http+docker://localhost/bye")
    assert session.get(ADDRESS).text == "2"
    session.close()
    server.close()
    assert server.asked == [
        b"GET /_ping?a=b+c HTTP/1.1",
        b"GET /containers/json HTTP/1.1",
        b"POST /bye HTTP/1.1",
        b"GET /_ping HTTP/1.1",
    ]


@pytest.mark.parametrize("there", [False, True], ids=["no-socket", "nobody-listens"])
def test_no_socket_stays_open_where_nobody_listens(
    session: requests.Session, tmp_path: Path, there: bool
) -> None:
    if there:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "s"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(requests.exceptions.ConnectionError):
            session.get(ADDRESS, timeout=5)
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
