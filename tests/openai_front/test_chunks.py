"""Bodies in chunks are taken apart as h11 does it, which is the judge here, in whatever pieces they
come; and what h11 refuses is refused."""

from __future__ import annotations

from collections.abc import Iterator

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lap_mcp.front_parts.chunks import MAX_HEAD, BadChunk, Chunks

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = b"data: {}\n\n"


def pieces_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[start:end]


def ours(data: bytes, cuts: list[int]) -> tuple[bytes, bool, bytes] | None:
    """The body, whether it ended, and what came behind; `None`: refused."""
    chunks, found, behind = Chunks(), b"", b""
    try:
        for piece in pieces_of(data, cuts):
            if chunks.over:
                behind += piece
            else:
                found += chunks.feed(piece)
    except BadChunk:
        return None
    return found, chunks.over, chunks.rest + behind


def theirs(data: bytes) -> tuple[bytes, bool, bytes] | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(HEAD)
    assert isinstance(connection.next_event(), h11.Response)
    if data:
        connection.receive_data(data)
    found = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                found += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return found, True, connection.trailing_data[0]
            else:
                return found, False, b""
    except h11.RemoteProtocolError:
        return None


chunk = st.builds(
    lambda data, more, upper: (
        (b"%X" if upper else b"%x") % len(data) + more + b"\r\n" + data + b"\r\n"
    ),
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"", b"", b";a=b", b";x", b" ", b";y  "]),
    st.booleans(),
)
end = st.sampled_from(
    [b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nx-y: 1\r\nz:\r\n\r\n", b"", b"0\r\n", b"0\r\n\r\nHTTP/1"]
)
bodies = st.builds(lambda parts, last: b"".join(parts) + last, st.lists(chunk, max_size=6), end)
places = st.lists(st.integers(0, 400), max_size=12)


@settings(max_examples=400, deadline=None)
@given(bodies, places)
@example(b"A\r\n" + WORDS + b"\r\n0\r\n\r\n", list(range(30)))
def test_however_it_is_cut_the_body_is_the_one_that_h11_reads(data: bytes, cuts: list[int]) -> None:
    expected = theirs(data)
    assert expected is not None
    assert ours(data, cuts) == expected


@settings(max_examples=400, deadline=None)
@given(bodies, places, st.integers(0, 300), st.sampled_from(b"\r\n0;x:\0 -gG"))
def test_a_byte_that_is_wrong_is_never_read_as_more_than_h11_reads(
    data: bytes, cuts: list[int], at: int, byte: int
) -> None:
    """We may refuse what h11 still takes (a bare line end), never the other way round."""
    if not data:
        return
    at %= len(data)
    spoilt = data[:at] + bytes([byte]) + data[at + 1 :]
    found = ours(spoilt, cuts)
    if found is not None and found[1]:
        assert found == theirs(spoilt)


@pytest.mark.parametrize(
    "data",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1\na\r\n",
        b"\r\n",
        b"1" * 17 + b"\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"1;" + b"x" * (MAX_HEAD + 1),
        b"0\r\n" + b"a: b\r\n" * (MAX_HEAD // 6 + 1),
    ],
)
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    assert ours(data, []) is None
    assert ours(data, list(range(30))) is None
