"""Executions put together from frames that a hostile container may have sent."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lap_sandbox.base import Limits
from lap_sandbox.collect import Collector
from lap_sandbox.errors import FrameError
from lap_sandbox.link import Demultiplexer
from lap_sandbox.runner.headtail import HeadTail
from lap_sandbox.runner.wire import KINDS, Frame, Kind

LIMITS = Limits(output_head=100, output_tail=20, images=2, image_size=1000, reported_files=3)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def collect(*frames: Frame, limits: Limits = LIMITS) -> Collector:
    collector = Collector(limits, None, lambda: None)
    for frame in frames:
        collector.on_frame(frame)
    return collector


def done(**header: Any) -> Frame:
    return Frame(Kind.DONE, 1, {"status": "ok", **header})


def output(data: bytes, mime: str = "image/png", size: int | None = None) -> Frame:
    return Frame(Kind.OUTPUT, 1, {"mime": mime, "size": len(data) if size is None else size}, data)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
hostile_headers = st.dictionaries(
    st.sampled_from(
        ["status", "cpu", "files", "mime", "size", "name", "value", "tail", "stdout_dropped"]
    )
    | st.text(max_size=5),
    values | st.lists(st.dictionaries(st.sampled_from(["path", "size", "modified"]), values)),
    max_size=6,
)
hostile = st.builds(
    Frame,
    st.sampled_from(sorted(KINDS)) | st.integers(0, 255),
    st.just(1),
    hostile_headers,
    st.binary(max_size=300),
)


@given(st.lists(hostile, max_size=12))
def test_any_frames_give_an_execution_within_limits_or_a_frame_error(frames: list[Frame]) -> None:
    collector = Collector(LIMITS, lambda stream, text: None, lambda: None)
    with contextlib.suppress(FrameError):
        for frame in frames:
            collector.on_frame(frame)
    execution = collector.execution("exe_1")
    assert len(execution.outputs) <= LIMITS.images
    assert len(execution.stdout.encode()) <= 3 * 120 + 100
    assert len(execution.files) <= LIMITS.reported_files
    assert execution.cpu >= 0
    for text in (execution.stdout, execution.value or "", *(f.path for f in execution.files)):
        text.encode("utf-8")


def test_live_output_and_its_end_meet_in_the_middle_of_a_character() -> None:
    body = "äöü".encode()
    seen: list[str] = []
    collector = Collector(LIMITS, lambda stream, text: seen.append(text), lambda: None)
    collector.on_frame(Frame(Kind.STDOUT, 1, {}, body[:3]))
    collector.on_frame(Frame(Kind.STDOUT, 1, {"tail": True}, body[3:]))
    collector.on_frame(done())
    assert collector.execution("e").stdout == "äöü"
    assert seen == ["ä"]


def test_what_was_left_out_of_the_middle_is_said_with_its_size() -> None:
    collector = collect(
        Frame(Kind.STDOUT, 1, {}, b"a" * 100),
        Frame(Kind.STDOUT, 1, {"tail": True}, b"z" * 20),
        done(stdout_dropped=880),
    )
    execution = collector.execution("e")
    assert execution.stdout_dropped == 880
    assert execution.stdout == "a" * 100 + "\n… 880 bytes left out …\n" + "z" * 20


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(Kind.STDOUT, 1, {}, b"x" * 101)],
        [Frame(Kind.STDERR, 1, {"tail": True}, b"x" * 21)],
        [output(PNG, size=1001)],
        [output(PNG, size=5)],
        [output(PNG), output(PNG), output(PNG)],
        [output(PNG, size=100), output(PNG)],
        [Frame(Kind.OUTPUT, 1, {}, b"part of nothing")],
        [Frame(Kind.VALUE, 1, {}, b"x" * 90_000)],
        [Frame(Kind.ERROR, 1, {"name": 5}, b"")],
        [Frame(Kind.PUT, 1, {}, b"")],
        [Frame(0xC0, 1, {}, b"")],
        [done(), done()],
        [done(stdout_dropped=-1)],
        [done(cpu="much")],
        [done(cpu=float("nan"))],
        [done(files={"path": "a"})],
        [done(files=[{"path": "a", "size": 1, "modified": 1}] * 4)],
        [done(files=[{"size": 1}])],
    ],
)
def test_what_breaks_the_rules_is_refused(frames: list[Frame]) -> None:
    with pytest.raises(FrameError):
        collect(*frames)


def test_an_image_that_is_none_is_dropped_and_counted() -> None:
    execution = collect(output(b"<script>"), output(b"{}", "text/x-evil"), done()).execution("e")
    assert (execution.outputs, execution.outputs_dropped) == ((), 2)


def test_a_rich_output_may_come_in_parts() -> None:
    head = Frame(Kind.OUTPUT, 1, {"mime": "image/png", "size": len(PNG)}, PNG[:10])
    rest = Frame(Kind.OUTPUT, 1, {}, PNG[10:])
    (found,) = collect(head, rest, done()).execution("e").outputs
    assert (found.mime, found.data) == ("image/png", PNG)


def test_file_names_that_would_move_a_cursor_are_escaped() -> None:
    name = "a\x1b[2Jb\n\u202etxt.exe"
    files = [{"path": name, "size": 1, "modified": 2.0}]
    (info,) = collect(done(files=files)).execution("e").files
    assert info.path == "a\\x1b[2Jb\\n\\u202etxt.exe"


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(0, 60), st.integers(0, 60))
def test_head_and_tail_are_the_ends_of_what_was_fed(
    parts: list[bytes], head: int, tail: int
) -> None:
    keeper = HeadTail(head, tail)
    kept_head = b"".join(keeper.feed(part) for part in parts)
    kept_tail = keeper.take_tail()
    whole = b"".join(parts)
    assert kept_head == whole[:head]
    assert len(kept_tail) <= tail
    assert whole.endswith(kept_tail)
    assert len(kept_head) + keeper.dropped + len(kept_tail) == len(whole)


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=10),
    st.lists(st.integers(0, 500), max_size=10),
)
def test_the_engines_stream_is_taken_apart_however_it_is_cut(
    messages: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(struct.pack("!BxxxI", stream, len(b)) + b for stream, b in messages)
    demultiplexer = Demultiplexer()
    found = b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        found += b"".join(demultiplexer.feed(data[start:end]))
    assert found == b"".join(body for stream, body in messages if stream == 1)
    assert demultiplexer.stderr == b"".join(body for stream, body in messages if stream == 2)
