"""A word with a signature: its content comes back, and no other word opens it."""

from __future__ import annotations

import string

import pytest

from lap_mcp.control.signed_text import content_of, signed_text

KEY, PURPOSE = b"k" * 32, b"tests 1\0"
ALPHABET = string.ascii_letters + string.digits + "-_"


@pytest.mark.parametrize("length", range(7))
def test_a_word_opens_to_its_content_and_is_the_only_one_that_does(length: int) -> None:
    content = b"secret"[:length]
    word = signed_text(content, KEY, PURPOSE)
    others = {
        f"{word[:place]}{other}{word[place + 1 :]}"
        for place in range(len(word))
        for other in ALPHABET
    } - {word}

    assert content_of(word, KEY, PURPOSE) == content
    assert len(others) == len(word) * (len(ALPHABET) - 1)
    assert not [other for other in others if content_of(other, KEY, PURPOSE) is not None]


def test_another_key_or_purpose_opens_nothing() -> None:
    word = signed_text(b"secret", KEY, PURPOSE)

    assert content_of(word, b"K" * 32, PURPOSE) is None
    assert content_of(word, KEY, b"tests 2\0") is None


@pytest.mark.parametrize("more", ["=", "==", "A", "\n", " ", "+", "é", "\x00"])
def test_what_is_not_such_a_word_opens_nothing(more: str) -> None:
    word = signed_text(b"secret", KEY, PURPOSE)

    for other in (more, word + more, more + word, f"{word[:9]}{more}{word[9:]}"):
        assert content_of(other, KEY, PURPOSE) is None


@pytest.mark.parametrize("word", ["", "A", "AA", "A" * 42, "A" * 43, "A" * 100_000])
def test_words_of_any_length_are_refused(word: str) -> None:
    assert content_of(word, KEY, PURPOSE) is None
