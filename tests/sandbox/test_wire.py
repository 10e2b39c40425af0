"""The frames between host and supervisor, fed with everything that is not a frame."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lap_sandbox.runner import wire
from lap_sandbox.runner.wire import Decoder, Frame, WireError, encode

headers = st.dictionaries(
    st.text(max_size=12),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ),
    max_size=5,
)
frames = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), headers, st.binary(max_size=2000)
)


def feed_in_pieces(data: bytes, cuts: list[int]) -> list[Frame]:
    decoder = Decoder()
    found: list[Frame] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        found += decoder.feed(data[start:end])
    assert decoder.pending == 0
    return found


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(
    sent: list[Frame], cuts: list[int]
) -> None:
    data = b"".join(encode(f.kind, f.id, f.header, f.body) for f in sent)
    assert feed_in_pieces(data, cuts) == sent


@given(st.binary(max_size=4000), st.lists(st.integers(0, 4000), max_size=8))
def test_garbage_gives_frames_or_one_wire_error_and_never_grows(
    data: bytes, cuts: list[int]
) -> None:
    decoder = Decoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    with contextlib.suppress(WireError):
        for start, end in zip(edges, edges[1:], strict=False):
            for frame in decoder.feed(data[start:end]):
                assert isinstance(frame.header, dict)
                assert len(frame.body) <= wire.MAX_BODY
            assert decoder.pending <= wire.MAX_FRAME + 4


@given(frames, st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_never_raises_anything_but_a_wire_error(
    frame: Frame, where: int, flip: int
) -> None:
    data = bytearray(encode(frame.kind, frame.id, frame.header, frame.body))
    data[where % len(data)] ^= flip
    with contextlib.suppress(WireError):
        Decoder().feed(bytes(data))


@pytest.mark.parametrize("length", [0, 6, wire.MAX_FRAME + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_before_the_frame_is_waited_for(length: int) -> None:
    with pytest.raises(WireError):
        Decoder().feed(struct.pack("!I", length))


@pytest.mark.parametrize(
    "header",
    [b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b"[" * 20_000, b"9" * 5000, b'{"a":' * 9000],
)
def test_a_header_that_is_no_json_object_is_refused(header: bytes) -> None:
    data = struct.pack("!IBIH", 7 + len(header), 1, 1, len(header)) + header
    with pytest.raises(WireError):
        Decoder().feed(data)


def test_a_header_that_is_longer_than_its_frame_is_refused() -> None:
    with pytest.raises(WireError):
        Decoder().feed(struct.pack("!IBIH", 7, 1, 1, 5))


def test_what_is_too_large_for_a_frame_is_not_sent() -> None:
    with pytest.raises(WireError):
        encode(1, 1, None, bytes(wire.MAX_BODY + 1))
    with pytest.raises(WireError):
        encode(1, 1, {"a": "x" * wire.MAX_HEADER})


def test_the_frame_on_the_wire_is_as_documented() -> None:
    header: dict[str, Any] = {"path": "a.csv"}
    data = encode(wire.Kind.PUT, 7, header, b"body")
    length, kind, id, size = struct.unpack_from("!IBIH", data)
    assert (length, kind, id) == (len(data) - 4, 4, 7)
    assert json.loads(data[11 : 11 + size]) == header
    assert data[11 + size :] == b"body"
