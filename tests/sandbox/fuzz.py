"""Feeds the frame parsers with what is nearly right and what is not, in both directions.

`tests/sandbox/test_fuzz.py` does so for a moment.  At length, from the root of the repository:

    PYTHONPATH=.:runtimes:sandbox python -m tests.sandbox.fuzz 500000

which prints how many inputs each direction got, and stops at the first one that breaks a promise.
There they are drawn by the program itself, a hundred times as many a second as by hypothesis.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from lap_sandbox.base import Limits
from lap_sandbox.collect import Collector
from lap_sandbox.errors import FrameError
from lap_sandbox.link import Demultiplexer
from lap_sandbox.runner import wire
from lap_sandbox.runner.execution import Running
from lap_sandbox.runner.files import Tree
from lap_sandbox.runner.printed import Printed
from lap_sandbox.runner.processes import Counters
from lap_sandbox.runner.wire import KINDS, Decoder, Frame, Kind, WireError

LIMITS = Limits(output_head=300, output_tail=50, images=2, image_size=500, reported_files=3)
ID = 7
ASKED = {"head": 300, "tail": 50, "outputs": 2, "output_size": 500, "files": 3}

_NAMES = [
    "status", "cpu", "files", "mime", "size", "name", "value", "tail", "exit", "oom", "pid",
    "stdout_dropped", "outputs_dropped", "state_lost", "lost_before", "interrupted", "files_more",
]  # fmt: skip
_names = st.sampled_from(_NAMES)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["image/png", "ok", "died", 2**53, 2**64, -1, 1e308, "\ud800", "\u202e"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["path", "size", "modified"]) | st.text(max_size=3), inner,
                      max_size=3),
    max_leaves=4,
)  # fmt: skip
_headers = st.dictionaries(_names | st.text(max_size=4), _values, max_size=4).map(
    lambda header: json.dumps(header).encode()
)
_odd_headers = st.sampled_from(
    [b"", b"[]", b"null", b"{", b'{"a":' * 400 + b"1" + b"}" * 400, b'{"a":1e999}', b'{"a":NaN}',
     b'{"size":' + b"9" * 5000 + b"}", b"\xff", "{\"é\":\"é\"}".encode(), b'{"files":[{}]}']
) | st.binary(max_size=12)  # fmt: skip


def _packed(kind: int, id: int, head: bytes, body: bytes, off: int) -> bytes:
    length = (7 + len(head) + len(body) + off) % 2**32
    return struct.pack("!IBIH", length, kind, id, len(head)) + head + body


_kinds = st.sampled_from(sorted(KINDS)) | st.integers(0, 255)
_ids = st.just(ID) | st.sampled_from([0, ID + 1, 2**32 - 1])
_bodies = st.binary(max_size=40) | st.sampled_from([b"\x89PNG\r\n\x1a\n" + bytes(30), b"x" * 299])
_frames = st.builds(_packed, _kinds, _ids, _headers, _bodies, st.just(0))
_odd_frames = st.builds(
    _packed, _kinds, _ids, _headers | _odd_headers, _bodies, st.sampled_from([0, 0, 1, -1, 2**31])
)
streams = st.lists(_frames | _frames | _odd_frames | st.binary(max_size=20), max_size=6).map(
    b"".join
)
cuts = st.lists(st.integers(0, 400), max_size=3)


def _pieces(data: bytes, where: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in where), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def to_host(data: bytes, where: list[int], *, mixed: bool) -> None:
    """What a sandbox sends becomes an execution within its limits, or is refused in one way.

    `mixed`: in the engine's stream of stdout and stderr, whose headers are wrong then too.
    """
    demultiplexer, decoder = Demultiplexer(), Decoder()
    collector = Collector(LIMITS, lambda stream, text: None, lambda: None)
    with contextlib.suppress(WireError, FrameError):
        for piece in _pieces(data, where):
            for part in demultiplexer.feed(piece) if mixed else [piece]:
                for frame in decoder.feed(part):
                    if frame.id == ID:
                        collector.on_frame(frame)
    assert decoder.pending <= wire.MAX_FRAME + 4
    assert len(demultiplexer.stderr) <= 4096
    execution = collector.execution("exe_1")
    assert len(execution.outputs) <= LIMITS.images
    assert all(len(output.data) <= LIMITS.image_size for output in execution.outputs)
    assert len(execution.stdout) <= LIMITS.output_head + LIMITS.output_tail + 100
    assert len(execution.files) <= LIMITS.reported_files
    for text in (execution.stdout, execution.stderr, execution.value or "", execution.notice):
        text.encode()
    for file in execution.files:
        assert file.path.isprintable()
        assert file.size >= 0


@functools.cache
def _printed() -> Printed:
    """Nothing is printed here: it makes no file."""
    return Printed(Tree(tempfile.gettempdir()))


def to_supervisor(data: bytes, where: list[int], counters: Counters) -> None:
    """What a worker sends is passed on as frames that the host can read, or refused in one way."""
    decoder, host = Decoder(), Decoder()
    running = Running(Frame(Kind.EXECUTE, ID, ASKED), counters, _printed(), still=True)
    with contextlib.suppress(WireError):
        for piece in _pieces(data, where):
            for frame in decoder.feed(piece):
                assert isinstance(frame, Frame)
                if frame.kind == Kind.DONE:
                    head = running.summary(frame.header, [], False)
                    (out,) = host.feed(wire.frame(Kind.DONE, frame.id, head))
                    assert set(out.header) <= {"status", "cpu", "state_lost", "exit",
                                               "outputs_dropped"}  # fmt: skip
                elif running.admit(frame):
                    (out,) = host.feed(wire.encode(frame.kind, ID, frame.header, frame.body))
                    assert out.kind in (Kind.OUTPUT, Kind.VALUE, Kind.ERROR)
                    assert out.body == frame.body
    assert decoder.pending <= wire.MAX_FRAME + 4


_POOL = [b"[]", b"null", b"{", b'{"a":1e999}', b'{"a":NaN}', b"\xff", b'{"files":[{}]}']


def drawn(chance: random.Random) -> bytes:
    """A stream as of `streams`: frames, some wrong in one way, then a few bytes changed."""
    parts = []
    for _ in range(chance.randrange(5)):
        if chance.random() < 0.1:
            parts.append(chance.randbytes(chance.randrange(24)))
            continue
        kind = chance.choice(_KINDS) if chance.random() < 0.9 else chance.randrange(256)
        id = ID if chance.random() < 0.9 else chance.choice([0, ID + 1, 2**32 - 1])
        body = chance.randbytes(chance.randrange(40))
        if chance.random() < 0.2:
            body = b"\x89PNG\r\n\x1a\n" + body
        off = chance.choice([1, -1, 2**31]) if chance.random() < 0.05 else 0
        parts.append(_packed(kind, id, _drawn_header(chance), body, off))
    data = bytearray(b"".join(parts))
    if data and chance.random() < 0.3:
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _drawn_header(chance: random.Random) -> bytes:
    what = chance.random()
    if what < 0.3:
        return b""
    if what < 0.35:
        return chance.choice(_POOL)
    if what < 0.36:
        depth = chance.randrange(1, 1200)
        return b'{"a":' * depth + b"1" + b"}" * depth
    header = {name: chance.choice(_SOME) for name in chance.sample(_NAMES, chance.randrange(4))}
    if "files" in header and chance.random() < 0.7:
        header["files"] = [{"path": chance.choice(_PATHS), "size": chance.choice(_SOME)}]
    return json.dumps(header, ensure_ascii=chance.random() < 0.8).encode("utf-8", "replace")


_KINDS = sorted(KINDS)
_PATHS = ["a", "../../etc/passwd", "\ud800", "a\x1b[2J\u202e\n", "x" * 300, ""]
_SOME: list[Any] = [None, True, 0, 1, -1, 2**53, 2**53 + 1, 10**40, 0.5, 1e308, float("nan"), "",
                    "ok", "died", "image/png", "text/html", "\ud800", "\u202e", [], {}, [[]],
                    {"path": "a"}, 20, 300]  # fmt: skip


def _at_length(name: str, count: int, run: Callable[[bytes, list[int], bool], None]) -> None:
    began = time.monotonic()
    for number in range(count):
        chance = random.Random(number)
        data = drawn(chance)
        where = [chance.randrange(400) for _ in range(chance.randrange(4))]
        try:
            run(data, where, chance.random() < 0.5)
        except BaseException:
            print(f"{name}: input {number} breaks a promise: {data!r} cut at {where}", flush=True)
            raise
    print(f"{name}: {count} inputs, nothing broken, {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    count = int(sys.argv[1])
    counters = Counters("/nowhere")
    _at_length("to the host", count, lambda data, where, mixed: to_host(data, where, mixed=mixed))
    _at_length(
        "to the supervisor", count, lambda data, where, _: to_supervisor(data, where, counters)
    )


if __name__ == "__main__":
    main()
