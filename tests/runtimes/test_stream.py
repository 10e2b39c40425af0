"""The stream reader reads every dialect, wherever its bytes are cut."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lap_runtimes.errors import ProtocolError
from lap_runtimes.stream import EventMeter, Frame, StreamReader

MIXED = (
    b"\xef\xbb\xbf: hello\r\n\r\nevent: a\r\nid: 7\r\ndata: one\r\ndata: two\r\n\r\n"
    b"data:three\n\n:ping\rdata: four\r\rretry: 10\nunknown: x\nevent\ndata\n\n"
    b'{"bare": "json"}\ndata: {"last": 1}'
)
FRAMES = [
    Frame("one\ntwo", "a", "7"),
    Frame("three", "", "7"),
    Frame("four", "", "7"),
    Frame("", "", "7"),
    Frame('{"bare": "json"}', "", "7"),
    Frame('{"last": 1}', "", "7"),
]


def read(chunks: Iterable[bytes], reader: StreamReader | None = None) -> list[Frame]:
    reader = reader or StreamReader()
    found = [frame for chunk in chunks for frame in reader.feed(chunk)]
    return found + reader.close()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def test_reads_comments_names_ids_all_line_ends_a_bom_and_an_unfinished_end() -> None:
    assert read([MIXED]) == FRAMES


def test_reads_the_same_byte_by_byte() -> None:
    assert read(MIXED[i : i + 1] for i in range(len(MIXED))) == FRAMES


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_reads_the_same_however_it_is_cut(places: list[int]) -> None:
    assert read(cut(MIXED, places)) == FRAMES


LINE = st.text(st.characters(blacklist_characters="\r\n\x00", blacklist_categories=["Cs"]))
END = st.sampled_from(["\n", "\r\n", "\r"])


@settings(max_examples=300)
@given(st.lists(st.tuples(LINE, LINE, END), max_size=8), st.lists(st.integers(0, 9999), max_size=9))
def test_gives_back_what_any_sender_sent(
    events: list[tuple[str, str, str]], places: list[int]
) -> None:
    sent = "".join(f":c{end}event: {name}{end}data: {data}{end}{end}" for name, data, end in events)
    expected = [Frame(data, name) for name, data, _ in events if data.strip() != "[DONE]"]
    assert read(cut(sent.encode(), places)) == expected


@given(st.lists(st.text().map(lambda t: t.replace("\x1e", "")), max_size=6), st.data())
def test_reads_json_sequences(texts: list[str], data: st.DataObject) -> None:
    records = [json.dumps({"t": text}, indent=1) for text in texts]
    sent = "".join(f"\x1e{record}\n" for record in records).encode()
    places = data.draw(st.lists(st.integers(0, 9999), max_size=9))
    assert [frame.data for frame in read(cut(sent, places))] == records


@given(st.lists(st.dictionaries(st.text(), st.text(), min_size=1), min_size=1), st.data())
def test_reads_newline_delimited_json(values: list[dict[str, str]], data: st.DataObject) -> None:
    lines = [json.dumps(value) for value in values]
    sent = "\r\n\r\n".join(lines).encode()
    places = data.draw(st.lists(st.integers(0, 9999), max_size=9))
    assert [frame.data for frame in read(cut(sent, places))] == lines


@settings(max_examples=500)
@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=9))
def test_never_fails_on_any_bytes_and_reads_them_the_same_cut_or_whole(
    data: bytes, places: list[int]
) -> None:
    assert read(cut(data, places)) == read([data])


@pytest.mark.parametrize(
    "sent", [b"data: a\n\ndata: [DONE]\n\ndata: b\n\n", b'{"a":1}\n[DONE]\n{}\n']
)
def test_nothing_comes_after_done(sent: bytes) -> None:
    reader = StreamReader()
    assert len(read([sent], reader)) == 1
    assert reader.done


@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_ten_megabytes_in_one_event_are_read(size: int) -> None:
    text = "x" * 10_000_000
    sent = f"data: {text}\n\n".encode()
    step = max(size, 64)
    chunks = [sent[i : i + step] for i in range(0, len(sent), step)]
    assert read(chunks) == [Frame(text)]


def feed_until_refused(feed: Callable[[bytes], object], chunk: bytes, most: int) -> int:
    """How many bytes went in before `ProtocolError`."""
    fed = 0
    while fed < most:
        with contextlib.suppress(ProtocolError):
            feed(chunk)
            fed += len(chunk)
            continue
        return fed
    raise AssertionError(f"{fed} bytes were taken")


def test_the_words_of_the_refusal_name_the_limit() -> None:
    with pytest.raises(ProtocolError, match="more than 1 MB"):
        StreamReader(limit=1024 * 1024).feed(b"data: " + b"x" * 2_000_000)


@pytest.mark.parametrize("start", [b"data: ", b'{"a": "', b"\x1e"])
def test_an_event_over_the_limit_is_refused_in_words_before_it_is_all_read(start: bytes) -> None:
    reader = StreamReader(limit=2 * 1024 * 1024)
    reader.feed(start)
    assert feed_until_refused(reader.feed, b"x" * 65536, 10_000_000) <= 2 * 1024 * 1024


def test_many_data_lines_count_as_one_event() -> None:
    reader = StreamReader(limit=1024 * 1024)
    line = b"data: " + b"x" * 20_000 + b"\n"
    assert feed_until_refused(reader.feed, line, 10_000_000) <= 1024 * 1024


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_the_meter_lets_small_events_pass_for_ever_and_stops_a_large_one(
    chunks: list[bytes],
) -> None:
    meter = EventMeter(1000, events=True)
    for chunk in chunks * 20:
        meter.count(chunk.replace(b"\n", b"") + b"\n")
        meter.count(b"\n")
    assert feed_until_refused(meter.count, b"x" * 100, 3000) <= 1000
