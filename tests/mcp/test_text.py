"""Text on its way to a model: what is taken out, what stays, how it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_mcp.errors import NotFound
from lap_mcp.mcp_server import uris
from lap_mcp.mcp_server.text import clean, one_line, page, shorten


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("a\x00b\x08c\x7fd\x85e", "abcde"),
        ("abc\u202edcba\u202c", "abcdcba"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("tag\U000e0041\U000e0042s", "tags"),
        ("one\r\ntwo\rthree\r\n", "one\nthree\n"),
        (" 10%\r 50%\r100%\n", "100%\n"),
        ("👩\u200d🔧 می\u200cخواهم", "👩\u200d🔧 می\u200cخواهم"),
        ("bad \ud800 half", "bad \ufffd half"),
    ],
)
def test_what_hides_or_steers_is_taken_out(given_text: str, expected: str) -> None:
    assert clean(given_text) == expected


@given(st.text())
def test_clean_text_stays_clean_and_can_be_sent(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    once.encode()


@given(st.text(), st.integers(min_value=8, max_value=400))
def test_pages_together_are_the_text(text: str, limit: int) -> None:
    text = clean(text)
    whole, offset = "", 0
    while True:
        shown = page(text, offset, limit)
        assert len(shown.text.encode()) <= limit
        whole += shown.text
        if shown.next is None:
            break
        assert shown.next > offset
        offset = shown.next
    assert whole == text


def test_a_page_beyond_the_end_is_empty() -> None:
    assert page("abc", 99, 10).text == ""
    assert page("abc", 99, 10).next is None


@given(st.text(), st.integers(min_value=40, max_value=400))
def test_shortened_text_keeps_head_and_tail(text: str, limit: int) -> None:
    text = clean(text)
    shown, dropped = shorten(text, limit)
    if dropped == 0:
        assert shown == text
    else:
        assert f"{dropped} characters left out" in shown
        assert len(shown.encode()) <= limit + 60


def test_one_line_is_one_line() -> None:
    assert one_line(" a\n\tb\u200d ") == "a b"
    assert len(one_line("x" * 500, 100)) == 100


@pytest.mark.parametrize(
    "uri",
    [
        "lap://",
        "lap://nothing",
        "lap://agents/UPPER",
        "lap://agents/a/b",
        "lap://sessions/ses_1",
        "lap://status?x=1",
        "lap://status#x",
        "http://status",
        "lap://sessions/ses_" + "a" * 32 + "/files/a/b",
        "lap:status",
        "",
    ],
)
def test_an_address_that_is_not_ours_is_not_found(uri: str) -> None:
    with pytest.raises(NotFound):
        uris.parse(uri)


def test_addresses_are_taken_apart() -> None:
    session = "ses_" + "a" * 32
    assert uris.parse(f"lap://sessions/{session}/events?after=7").after == 7
    assert uris.parse(f"lap://sessions/{session}/files/a%20b.png").path == "a b.png"
    box = "sbx_" + "b" * 32
    assert uris.parse(uris.sandbox_file(box, "d/a b#1.txt")).path == "d/a b#1.txt"
