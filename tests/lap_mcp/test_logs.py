"""Logs: one line each, structured, without secrets."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lap_mcp.logs import set_up_logs
from lap_mcp.scrub import MIN_LENGTH, Scrubber
from tests.canary import canary

CANARY = 'can"ary/value+\n'


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


def logged(style: str, scrubber: Scrubber | None = None) -> io.StringIO:
    stream = io.StringIO()
    set_up_logs(scrubber or Scrubber(), style=style, stream=stream)  # type: ignore[arg-type]
    return stream


def test_a_record_is_one_line_of_json_with_its_extras(root: logging.Logger) -> None:
    stream = logged("json")
    logging.getLogger("lap_mcp.x").warning("a turn ended", extra={"turn": "trn_1", "seconds": 2})
    entry = json.loads(stream.getvalue())
    assert entry | {"at": ""} == {
        "at": "",
        "level": "warning",
        "logger": "lap_mcp.x",
        "message": "a turn ended",
        "turn": "trn_1",
        "seconds": 2,
    }


def test_text_is_for_terminals(root: logging.Logger) -> None:
    stream = logged("text")
    logging.getLogger("lap_mcp.x").info("ready", extra={"count": 3})
    assert stream.getvalue().endswith(" info    ready count=3\n")


def test_secrets_are_taken_out_of_messages_extras_and_tracebacks(root: logging.Logger) -> None:
    scrubber = Scrubber()
    scrubber.add(CANARY)
    stream = logged("json", scrubber)
    try:
        raise ValueError(f"the server said {CANARY.strip()}")
    except ValueError:
        logging.getLogger("lap_mcp.x").exception("%s", CANARY, extra={"what": CANARY.strip()})
    text = stream.getvalue()
    assert "ary/value" not in text
    assert text.count("[secret]") == 3
    assert "ValueError" in json.loads(text)["error"]


def test_an_error_that_nobody_caught_is_printed_without_secrets() -> None:
    program = (
        "import sys\n"
        "from lap_mcp.logs import log_what_ends_us, set_up_logs\n"
        "from lap_mcp.scrub import Scrubber\n"
        "scrubber = Scrubber()\nscrubber.add(sys.argv[1])\n"
        "set_up_logs(scrubber)\nlog_what_ends_us()\nraise ValueError(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, canary("event")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "ValueError: [secret]" in json.loads(done.stderr)["error"]
    assert canary("event") not in done.stderr


def test_libraries_tell_only_what_is_wrong(root: logging.Logger) -> None:
    stream = logged("json")
    logging.getLogger("httpx2").info("POST https://host/?token=x")
    logging.getLogger("docker").debug("body")
    assert stream.getvalue() == ""


@given(
    st.text(min_size=MIN_LENGTH, max_size=40).filter(lambda text: len(text.strip()) >= MIN_LENGTH),
    st.text(max_size=40),
    st.text(max_size=40),
)
def test_a_secret_is_found_in_text_and_in_json(secret: str, before: str, after: str) -> None:
    scrubber = Scrubber()
    assert scrubber.add(secret)
    value = secret.strip()
    assert value not in scrubber.text(f"{before}{value}{after}").replace("[secret]", "")
    encoded = json.dumps({"key": [value, {value: before}]})
    assert value not in json.loads(scrubber.text(encoded)).__repr__()
    assert scrubber.data({"a": [value]}) == {"a": ["[secret]"]} or "[secret]" in value


def test_bytes_that_are_no_text_are_left_alone() -> None:
    scrubber = Scrubber()
    scrubber.add("canary-value")
    assert scrubber.bytes(b"a canary-value") == b"a [secret]"
    assert scrubber.bytes(b"\xff\x00 canary-value") == b"\xff\x00 canary-value"


def test_a_short_value_is_not_scrubbed_and_says_so() -> None:
    scrubber = Scrubber()
    assert not scrubber.add("abc")
    assert scrubber.text("abc") == "abc"
