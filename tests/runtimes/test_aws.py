"""What is AWS's own: signatures against botocore and against the wire, the binary event stream
against botocore's parser, and whatever bytes a broken or hostile server may send."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st
from lap_runtimes.authorizing import Outgoing
from lap_runtimes.aws_eventstream import EventMessage, EventStreamReader
from lap_runtimes.aws_signing import AWSCredentials, SigV4
from lap_runtimes.errors import ProtocolError, Rejected
from pydantic import ValidationError

from tests.canary import canary
from tests.capabilities import ROOT
from tests.runtimes.agentcore_server import framed, message

pytestmark = pytest.mark.anyio

NAMES = st.text(min_size=1, max_size=20).filter(lambda text: len(text.encode()) <= 255)
MESSAGES = st.lists(
    st.tuples(st.dictionaries(NAMES, st.text(max_size=50), max_size=5), st.binary(max_size=300)),
    max_size=5,
)


def read(data: bytes, size: int) -> list[EventMessage]:
    reader = EventStreamReader()
    found = [m for i in range(0, len(data), size) for m in reader.feed(data[i : i + size])]
    reader.close()
    return found


@given(MESSAGES, st.integers(1, 64))
def test_however_it_is_cut_a_stream_gives_what_botocore_reads(
    messages: list[tuple[dict[str, str], bytes]], size: int
) -> None:
    data = b"".join(message(headers, payload) for headers, payload in messages)
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    assert [(m.headers, m.payload) for m in read(data, size)] == [
        (event.headers, event.payload) for event in buffer
    ]


def test_headers_of_every_type_are_read_as_botocore_reads_them() -> None:
    raw = b""
    for name, kind, value in (
        ("yes", 0, b""),
        ("no", 1, b""),
        ("byte", 2, struct.pack("!b", -5)),
        ("short", 3, struct.pack("!h", -500)),
        ("int", 4, struct.pack("!i", -70000)),
        ("long", 5, struct.pack("!q", -(2**40))),
        ("bytes", 6, struct.pack("!H", 3) + b"\0\1\2"),
        ("text", 7, struct.pack("!H", 2) + "ü".encode()),
        ("time", 8, struct.pack("!q", 1_700_000_000_000)),
    ):
        raw += bytes([len(name)]) + name.encode() + bytes([kind]) + value
    data = framed(raw, b"payload")
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    (ours,) = read(data, 7)
    assert ours.headers == next(iter(buffer)).headers
    (with_uuid,) = read(framed(b"\1u\x09" + bytes(range(16)), b""), 100)
    assert with_uuid.headers == {"u": "00010203-0405-0607-0809-0a0b0c0d0e0f"}


@given(st.binary(max_size=400), st.integers(1, 50))
def test_bytes_that_are_no_event_stream_give_nothing_but_a_protocol_error(
    data: bytes, size: int
) -> None:
    try:
        read(data, size)
    except ProtocolError:
        return
    assert data == b""


@given(st.integers(0, 70), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(place: int, change: int) -> None:
    data = bytearray(message({":event-type": "metadata", ":message-type": "event"}, b"{}"))
    data[place % len(data)] ^= change
    with pytest.raises(ProtocolError):
        read(bytes(data), 1000)


@given(st.binary(max_size=60))
def test_headers_of_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """With the checksums right: what a hostile server would send."""
    try:
        (found,) = read(framed(raw, b""), 1000)
    except ProtocolError:
        return
    assert isinstance(found.headers, dict)


def test_a_message_larger_than_allowed_is_refused_before_it_is_held() -> None:
    reader = EventStreamReader(limit=100)
    begun = message({"a": "b"}, b"x" * 200)[:12]
    with pytest.raises(ProtocolError, match="the most is 100"):
        reader.feed(begun)


def test_an_end_inside_a_message_is_an_error() -> None:
    reader = EventStreamReader()
    reader.feed(message({"a": "b"}, b"x")[:-1])
    with pytest.raises(ProtocolError, match="middle"):
        reader.close()


def keys(**more: Any) -> AWSCredentials:
    context = {"resolve_secret": lambda reference: canary("bedrock_agentcore")}
    settings = {"access_key_id": "env:ID", "secret_access_key": "env:KEY", **more}
    return AWSCredentials.model_validate(settings, context=context)


async def test_a_session_token_goes_with_the_signature_and_is_a_secret() -> None:
    signer = SigV4(keys(session_token="env:T"), service="bedrock-agentcore", region="us-east-1")
    url = "https://bedrock-agentcore.us-east-1.amazonaws.com/runtimes/"
    request = Outgoing("POST", url, {"host": "x", "user-agent": "lap", "connection": "c"}, b"{}")
    proof = await signer.authorize(request)
    assert proof.secret["x-amz-security-token"] == canary("bedrock_agentcore")
    assert set(proof.plain) == {"x-amz-date"}
    signed = proof.secret["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    assert signed == "host;x-amz-date;x-amz-security-token", "nothing that a proxy changes"


async def test_without_credentials_the_words_say_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    signer = SigV4(AWSCredentials(), service="bedrock-agentcore", region="us-east-1")
    with pytest.raises(Rejected, match=r"aws\.access_key_id") as refusal:
        await signer.authorize(Outgoing("GET", "https://x.example/", {"host": "x"}, b""))
    assert not refusal.value.sent
    assert refusal.value.kind == "auth"


async def test_a_profile_is_read_where_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "aws.secret"
    secret = canary("bedrock_agentcore")
    file.write_text(f"[mine]\naws_access_key_id = AKID\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    signer = SigV4(AWSCredentials(profile="mine"), service="bedrock-agentcore", region="us-east-1")
    proof = await signer.authorize(Outgoing("GET", "https://x.example/", {"host": "x"}, b""))
    assert "Credential=AKID/" in proof.secret["authorization"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"secret_access_key": None}, "belong together"),
        ({"profile": "p"}, "either a profile or keys"),
    ],
)
def test_credentials_that_do_not_fit_together_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        keys(**settings)


BARE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "botocore":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import anyio
from lap_runtimes.kinds import load
from lap_runtimes.authorizing import Outgoing
from lap_runtimes.aws_signing import AWSCredentials, SigV4
adapter = load("bedrock_agentcore")
adapter(adapter.Config(region="eu-west-1"))
async def sign():
    signer = SigV4(AWSCredentials(), service="s", region="eu-west-1")
    try:
        await signer.authorize(Outgoing("GET", "https://x.example/", {}, b""))
    except Exception as exc:
        print(type(exc).__name__, exc)
anyio.run(sign)
"""


def test_without_the_extra_only_signing_is_missing_and_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=ROOT / "runtimes",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Rejected" in done.stdout
    assert "pip install 'lap-mcp[bedrock]'" in done.stdout
