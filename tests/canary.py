"""A secret value for every slot that takes one, and the search for it in all that a run leaves.

Tests put `canary(slot)` where a secret belongs; `scripts/test` searches afterwards what they left:
`python -m tests.canary FILE_OR_FOLDER…`.  What a test reads from a pipe is on no disk, so it is
handed to `keep`.  No message holds a canary.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PREFIX = os.environ.get("LAP_TEST_CANARY", "") or "cnry0f7q2x9w4k8v5m3j6z1t"
"""How every canary of this run begins.  Letters and digits only, so that neither URL-encoding nor
any way of escaping changes it."""
if not re.fullmatch(r"[a-z0-9]{24}", PREFIX):
    raise ValueError("LAP_TEST_CANARY has to be 24 lower-case letters and digits")

SLOTS: Mapping[str, str] = {
    "bearer": "auth.bearer of a runtime, of any kind",
    "header": "auth.header of a runtime",
    "quoted": "the same, with characters that JSON and URLs escape",
    "secret-file": "a file that file: names",
    "a2a": "the bearer token that an A2A agent asks for",
    "wrong-a2a": "one that it refuses",
    "responses": "the API key of a Responses endpoint",
    "claude": "the API key of Claude Managed Agents",
    "gemini": "the API key of the Gemini API",
    "openai-agents": "the API key of OpenAI Agents",
    "lap-platform": "the master key of a LiteLLM Agent Platform",
    "wrong-key": "one that no runtime of the fault tests accepts",
    "http": "the bearer token of an http runtime",
    "cursor": "the API key of a Cursor account",
    "snowflake": "the access token of a Snowflake account",
    "elastic": "the API key of a Kibana",
    "n8n": "the API key of an n8n",
    "bedrock_agentcore": "the AWS keys, and the OAuth token, of AgentCore",
    "langgraph": "the x-api-key of a LangGraph server",
    "databricks": "the OAuth token of a Databricks workspace",
    "databricks-secret": "the client secret that it is issued for",
    "litellm": "the key of a LiteLLM proxy",
    "acp": "a key in the environment of an ACP agent's program",
    "mcp": "the bearer token of an MCP server that is an agent",
    "opencode": "the password of an opencode server",
    "address": "the password in a runtime's address, where it does not belong",
    "inline": "a secret itself, written where a reference belongs",
    "store": "the password in the address of the store",
    "serve-key": "LAP_HOME/serve.key",
    "alice": "the key of a principal of the HTTP face",
    "bob": "that of another",
    "model-anthropic": "ANTHROPIC_API_KEY of the harness that starts us",
    "model-openai": "the model key of the harness that starts us",
    "event": "a known secret in what an agent says",
    "upstream-model": "the key of a model that the OpenAI face asks",
    "private-key": "~/.ssh/id_rsa of the person",
}

LAWFUL: Mapping[str, str] = {
    "*.secret": "a file that a test names in a file: reference",
    "serve.key": "where `lap-mcp serve` keeps its key, mode 0600",
    "id_rsa": "the person's own file, which nobody may take",
}
"""The files that may hold one; everything else below the folders is searched."""

CHUNK = 1 << 20


def canary(slot: str) -> str:
    """The value for this slot, the same in every process of a run.

    Raises:
        KeyError: nobody named this slot in `SLOTS`.
    """
    SLOTS[slot]
    if folder := _kept():
        (folder / f"slot-{slot}").touch()
    return f"{PREFIX}-{slot}"


def keep(text: str | bytes, *, name: str = "") -> None:
    """Let the search see this too: what a test got over a pipe or a socket, or out of a database
    that goes away.  `name` (that of the running test) leads back to where it comes from."""
    if (folder := _kept()) and text:
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        test = re.sub(r"[^\w.-]+", "-", name or os.environ.get("PYTEST_CURRENT_TEST", "text"))
        (folder / f"{test[:150]}-{uuid.uuid4().hex[:12]}").write_bytes(data)


def _kept() -> Path | None:
    folder = os.environ.get("LAP_TEST_OUTPUT")
    return Path(folder) if folder else None


@dataclass(frozen=True, slots=True)
class Hit:
    file: Path
    offset: int
    form: str

    def __str__(self) -> str:
        return f"{self.file}, at byte {self.offset}: {self.form}"


def forms(prefix: str = PREFIX) -> Mapping[bytes, str]:
    """What to look for, and how to call it.  Each half of the prefix counts, so that a canary cut
    in two is found: by a chunk of a stream, a page of a database, the end of a column."""
    found: dict[bytes, str] = {}
    for part in (prefix[:12], prefix[12:]):
        plain = part.encode()
        found[plain] = "as it is"
        found[plain.upper()] = "in capitals"
        found[plain.hex().encode()] = "in hexadecimal"
        found[plain.hex().upper().encode()] = "in hexadecimal"
        found[part.encode("utf-16-le")] = "in UTF-16"
        found[part.encode("utf-16-be")] = "in UTF-16"
        found[plain[::-1]] = "backwards"
        for shift in range(3):
            found[_base64_core(plain, shift)] = "in base64"
            found[_base64_core(plain, shift, altchars=b"-_")] = "in base64"
    return found


def _base64_core(plain: bytes, shift: int, altchars: bytes = b"+/") -> bytes:
    """The characters that `plain` alone decides, `shift` bytes after the beginning of a group."""
    encoded = base64.b64encode(b"\0" * shift + plain, altchars=altchars).rstrip(b"=")
    whole = (shift + len(plain)) * 8 // 6
    return encoded[-(-shift * 8 // 6) : whole]


def files(places: Iterable[Path]) -> Iterator[Path]:
    """Every regular file that is searched; links are not followed."""
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            lawful = any(path.match(pattern) for pattern in LAWFUL)
            if path.is_file() and not path.is_symlink() and not lawful:
                yield path


def search(places: Iterable[Path], prefix: str = PREFIX) -> list[Hit]:
    """Where a canary is, in the bytes of each file below `places` and in its name.  SQLite keeps
    text as it is, in its log too."""
    pattern = re.compile(b"|".join(re.escape(form) for form in forms(prefix)))
    names = forms(prefix)
    hits: list[Hit] = []
    for path in files(places):
        if any(form in os.fsencode(path) for form in names):
            hits.append(Hit(path.parent, 0, "in the name of a file in it"))
            continue
        hits += [Hit(path, offset, names[form]) for offset, form in _found(path, pattern)]
    return hits


def _found(path: Path, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
    overlap = 64
    """More than the longest form."""
    seen = -1
    with path.open("rb") as file:
        start, data = 0, file.read(CHUNK)
        while data:
            for match in pattern.finditer(data):
                if start + match.start() > seen:
                    seen = start + match.start()
                    yield seen, match.group()
            more = file.read(CHUNK)
            if not more:
                return
            start += max(len(data) - overlap, 0)
            data = data[-overlap:] + more


def main(arguments: Sequence[str]) -> int:
    """0 where no canary is found; each hit is a line."""
    places = [Path(argument) for argument in arguments]
    if missing := [place for place in places if not place.exists()]:
        print(f"canary: {missing[0]} is not there, so nothing was searched")
        return 2
    hits = search(places)
    for hit in hits[:50]:
        print(f"canary: {hit}")
    searched = list(files(places))
    size = sum(path.stat().st_size for path in searched) / 1e6
    used = {path.name for place in places for path in place.rglob("slot-*")}
    words = f"{len(hits)} hits" if hits else "not found"
    print(f"canary: in {len(used)} slots, {len(searched)} files of {size:.0f} MB searched: {words}")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
