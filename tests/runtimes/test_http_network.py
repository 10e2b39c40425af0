"""The network under the HTTP client: what goes over a real socket, with and without TLS, when the
other side is slow, leaves, breaks off, or is not there."""

from __future__ import annotations

import asyncio
import gc
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, create_connection

import anyio
import httpcore2
import httpx2
import pytest
import trustme
from lap_runtimes import http as http_module
from lap_runtimes.errors import Unavailable
from lap_runtimes.http_network import AsyncioNetwork
from lap_runtimes.http_transport import Pooled

from tests.runtimes.serving import address, listening
from tests.runtimes.test_http import connected
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1024 * 1024
DEADLINE = 20.0

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on this loop; its port.  It closes what `serve` leaves open."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    try:
        with anyio.fail_after(DEADLINE):
            yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`OK` to every request without a body."""
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(OK)


@asynccontextmanager
async def client(tls: ssl.SSLContext | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    transport = Pooled(
        tls or ssl.create_default_context(), connect_timeout=DEADLINE, keep_connections=4
    )
    async with httpx2.AsyncClient(transport=transport, timeout=DEADLINE) as http:
        yield http


@asynccontextmanager
async def stream(port: int) -> AsyncIterator[httpcore2.AsyncNetworkStream]:
    opened = await AsyncioNetwork().connect_tcp("127.0.0.1", port, timeout=5)
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def serving_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# Requests and connections --------------------------------------------------------------------


async def test_the_head_and_the_body_of_a_request_come_together() -> None:
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(64 * 1024))
        writer.write(OK)

    async with peer(serve) as port, client() as http:
        answer = await http.post(f"http://127.0.0.1:{port}/", content=b"the body")

    assert answer.text == "ok"
    assert came[0].startswith(b"POST / HTTP/1.1\r\n")
    assert came[0].endswith(b"\r\n\r\nthe body")


async def test_one_connection_serves_many_requests_and_closes_with_the_client() -> None:
    opened, closed = 0, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened, closed
        opened += 1
        try:
            await answers(reader, writer)
        finally:
            closed += 1

    async with peer(serve) as port:
        async with client() as http:
            for _ in range(5):
                assert (await http.get(f"http://127.0.0.1:{port}/")).text == "ok"
            assert (opened, closed) == (1, 0)
        await eventually_async(lambda: closed == 1)
    assert opened == 1


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again() -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        writer.write(OK)  # and closes, although it did not say so

    async with peer(serve) as port, client() as http:
        for number in range(1, 20):
            # A POST, which nobody repeats: sent into a dead connection it would be lost.
            assert (await http.post(f"http://127.0.0.1:{port}/")).text == "ok"
            assert requests == number


async def test_a_free_connection_on_which_something_comes_is_not_used_again() -> None:
    read, said = anyio.Event(), anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await read.wait()
        writer.write(OK.replace(b"ok", b"no"))
        await writer.drain()
        said.set()
        await reader.read()

    async with peer(serve) as port, client() as http:
        for _ in range(3):
            read, said = anyio.Event(), anyio.Event()
            assert (await http.get(f"http://127.0.0.1:{port}/")).text == "ok"
            read.set()
            await said.wait()


async def test_a_name_with_several_addresses_is_reached_at_the_one_that_answers() -> None:
    async with peer(answers) as port, client() as http:  # on 127.0.0.1 only
        assert (await http.get(f"http://localhost:{port}/")).text == "ok"


# Much, and slowly ----------------------------------------------------------------------------


async def test_what_nobody_reads_is_not_taken_from_the_socket() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64):
            writer.write(b"x" * MIB)
            await writer.drain()
            sent += 1

    async with (
        peer(serve) as port,
        client() as http,
        http.stream("GET", f"http://127.0.0.1:{port}/") as answer,
    ):
        await anyio.sleep(0.5)
        # What the kernel keeps on both sides is some MiB; the rest waits for us.
        assert sent < 32
        size = 0
        async for part in answer.aiter_raw():
            size += len(part)
    assert size == 64 * MIB
    assert sent == 64


async def test_a_large_body_waits_for_a_server_that_is_slow_to_read() -> None:
    going = anyio.Event()
    size = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        await reader.readuntil(b"\r\n\r\n")
        await going.wait()
        while size < 64 * MIB:
            size += len(await reader.read(MIB))
        writer.write(OK)

    given = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(64):
            given += 1
            yield b"x" * MIB

    async with peer(serve) as port, client() as http, anyio.create_task_group() as tasks:

        async def release() -> None:
            await anyio.sleep(0.5)
            assert given < 32
            going.set()

        tasks.start_soon(release)
        headers = {"Content-Length": str(64 * MIB)}
        answer = await http.post(f"http://127.0.0.1:{port}/", content=body(), headers=headers)
    assert answer.text == "ok"
    assert size == 64 * MIB


async def test_a_server_that_takes_nothing_or_says_nothing_is_given_up_in_time() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await anyio.sleep(DEADLINE)

    async with peer(serve) as port:
        async with stream(port) as opened:
            with pytest.raises(httpcore2.ReadTimeout):
                await opened.read(100, timeout=0.1)
        async with stream(port) as opened:
            with pytest.raises(httpcore2.WriteTimeout):
                await opened.write(b"x" * 64 * MIB, timeout=0.1)


# Ends ----------------------------------------------------------------------------------------


async def test_what_came_before_the_end_is_read_first_and_then_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")

    async with peer(serve) as port, stream(port) as opened:
        await eventually_async(lambda: bool(opened.get_extra_info("is_readable")))
        assert await opened.read(5) == b"last "
        assert await opened.read(100) == b"words"
        assert await opened.read(100) == b""
        assert await opened.read(100) == b""
        with pytest.raises(httpcore2.WriteError):
            await opened.write(b"too late")


async def test_a_connection_that_is_reset_says_so() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with peer(serve) as port, stream(port) as opened:
        await opened.write(b"x")
        with pytest.raises(httpcore2.ReadError, match="reset"):
            await opened.read(100)


@pytest.mark.parametrize(
    "sent",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"],
)
async def test_an_answer_that_breaks_off_is_an_error_of_the_connection(sent: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)

    async with peer(serve) as port, connected(f"http://127.0.0.1:{port}") as http:
        with pytest.raises(Unavailable, match="the connection broke") as caught:
            await http.json("POST", http.url("/"))
    assert caught.value.sent


async def test_an_answer_to_a_body_that_the_server_does_not_want_is_read() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
        await writer.drain()
        writer.write_eof()
        while await reader.read(MIB):
            pass

    async with peer(serve) as port, client() as http:
        answer = await http.post(f"http://127.0.0.1:{port}/", content=b"x" * (16 * MIB))
    assert (answer.status_code, answer.text) == (413, "too much")


async def test_leaving_an_answer_closes_its_connection() -> None:
    left = anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        assert await reader.read() == b""
        left.set()

    async with peer(serve) as port, client() as http:
        with anyio.move_on_after(0.3):
            async with http.stream("GET", f"http://127.0.0.1:{port}/") as answer:
                async for _ in answer.aiter_raw():
                    pass
        await left.wait()


async def test_a_client_that_is_closed_cuts_the_body_that_somebody_reads() -> None:
    """Not as if it were complete: its end would be that of the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")
        await reader.read()

    async with peer(serve) as port, connected(f"http://127.0.0.1:{port}") as http:
        reply = await http.open("GET", http.url("/"))
        chunks = reply.chunks()
        assert await anext(chunks) == b"half of it"
        async with anyio.create_task_group() as tasks:

            async def close() -> None:
                await anyio.sleep(0.05)
                await http.aclose()

            tasks.start_soon(close)
            with pytest.raises(Unavailable, match="closed on this side"):
                await anext(chunks)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_connecting_that_is_cancelled_leaves_nothing_open(host: str) -> None:
    now = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now
        now += 1
        await reader.read()
        now -= 1

    async def connect(port: int) -> None:
        opened = await AsyncioNetwork().connect_tcp(host, port)
        await opened.aclose()

    gc.disable()  # it would end what nobody owns
    try:
        async with peer(serve) as port:
            for turns in range(200):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connect, port)
                    for _ in range(turns % 20):
                        await asyncio.sleep(0)
                    if host == "localhost" and turns % 2:  # its name is looked up in a thread
                        await asyncio.sleep(0.001)
                    if turns % 20 < 19:
                        tasks.cancel_scope.cancel()
                await asyncio.sleep(0)
            await eventually_async(lambda: now == 0)
    finally:
        gc.enable()


# Nobody there --------------------------------------------------------------------------------


async def test_nobody_at_an_address_is_told_in_words() -> None:
    listener = listening()
    url = address(listener)
    listener.close()
    async with connected(url) as http:
        with pytest.raises(Unavailable, match="cannot connect") as caught:
            await http.json("POST", http.url("/"))
    assert not caught.value.sent


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 70}.example"])
async def test_a_name_that_no_host_has_is_told_in_words(host: str) -> None:
    with anyio.fail_after(DEADLINE), pytest.raises(httpcore2.ConnectError):
        await AsyncioNetwork().connect_tcp(host, 80, timeout=DEADLINE)


async def test_connecting_has_a_deadline() -> None:
    with listening() as listener, ExitStack() as opened:
        place = listener.getsockname()
        listener.listen(0)
        with suppress(TimeoutError):  # its queue is full then: it answers nobody
            while True:
                opened.enter_context(create_connection(place, timeout=0.5))
        with pytest.raises(httpcore2.ConnectTimeout):
            await AsyncioNetwork().connect_tcp(*place, timeout=0.2)


# TLS -----------------------------------------------------------------------------------------


async def test_requests_go_over_tls_and_the_connection_is_kept(
    serving_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await answers(reader, writer)

    async with peer(serve, serving_tls) as port, client(trusting) as http:
        for _ in range(5):
            async with http.stream("GET", f"https://127.0.0.1:{port}/") as answer:
                network = answer.extensions["network_stream"]
                assert network.get_extra_info("ssl_object").version() == "TLSv1.3"
                assert network.get_extra_info("server_addr") == ("127.0.0.1", port)
                assert await answer.aread() == b"ok"
    assert opened == 1


async def test_much_goes_both_ways_over_tls(
    serving_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(8 * MIB)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    body = bytes(range(256)) * (8 * MIB // 256)
    async with peer(serve, serving_tls) as port, client(trusting) as http:
        answer = await http.post(f"https://127.0.0.1:{port}/", content=body)
    assert answer.content == body


async def test_a_certificate_that_nobody_vouches_for_is_refused_in_words(
    serving_tls: ssl.SSLContext,
) -> None:
    async with peer(answers, serving_tls) as port, client() as http:
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(f"https://127.0.0.1:{port}/")


async def test_a_certificate_for_another_name_is_refused_in_words(
    serving_tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async with peer(answers, serving_tls) as port, client(trusting) as http:
        with pytest.raises(httpx2.ConnectError, match="localhost"):
            await http.get(f"https://localhost:{port}/")


async def test_a_configured_ca_file_vouches(
    authority: trustme.CA, serving_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")

    async with (
        peer(serve, serving_tls) as port,
        connected(f"https://127.0.0.1:{port}", ca_file=str(file)) as http,
    ):
        assert await http.json("GET", http.url("/")) is True


async def test_a_connection_of_one_name_is_not_used_for_another(
    trusting: ssl.SSLContext, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Addresses that are checked are connected to by number, and a pool knows numbers only."""
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("good.example").configure_cert(certificate)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)

    async def here(host: str, port: int) -> str:
        return "127.0.0.1"

    monkeypatch.setattr(http_module, "public_address", here)
    options = {"ca_file": str(file), "allow_origins": ["*"]}
    async with (
        peer(answers, certificate) as port,
        connected("https://home.example", **options) as http,
    ):
        for _ in range(2):
            reply = await http.open("GET", f"https://good.example:{port}/", whence="a test")
            assert await reply.read(10) == b"ok"
            await reply.aclose()
            with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await http.open("GET", f"https://other.example:{port}/", whence="a test")


async def test_a_server_without_tls_or_that_leaves_in_its_handshake_is_an_error(
    trusting: ssl.SSLContext,
) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(OK)

    async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    for serve in (plain, leaves):
        async with peer(serve) as port, client(trusting) as http:
            with pytest.raises(httpx2.ConnectError):
                await http.get(f"https://127.0.0.1:{port}/")


async def test_a_handshake_has_a_deadline(trusting: ssl.SSLContext) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await anyio.sleep(DEADLINE)

    async with peer(serve) as port, stream(port) as opened:
        with pytest.raises(httpcore2.ConnectTimeout):
            await opened.start_tls(trusting, "127.0.0.1", timeout=0.2)


# Proxies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "without", "asked"),
    [("http_proxy", "", "proxy"), ("all_proxy", "", "proxy"), ("http_proxy", "127.0.0.1", "home")],
)
async def test_a_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, variable: str, without: str, asked: str
) -> None:
    heads: dict[str, bytes] = {}

    def kept(name: str) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads[name] = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")

        return serve

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with peer(kept("home")) as home, peer(kept("proxy")) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("no_proxy", without)
        async with connected(f"http://127.0.0.1:{home}") as http:
            assert await http.json("GET", http.url("/there")) is True

    assert list(heads) == [asked]
    target = f"http://127.0.0.1:{home}/there" if asked == "proxy" else "/there"
    assert heads[asked].startswith(f"GET {target} HTTP/1.1\r\n".encode())


async def test_an_address_brings_no_credential_of_its_own_to_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    async with peer(serve) as proxy:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
        async with connected("http://agent.example") as http:
            reply = await http.open("GET", "http://somebody:else@agent.example/file")
            await reply.aclose()

    assert b"\r\nauthorization: bearer " in heads[0].lower()
    assert b"basic" not in heads[0].lower()
