"""What runtimes share that keep sessions themselves: a session is made, its stream is opened, the
input is sent, and events are read until the session rests.

No event of a vendor has a meaning here; that is in each adapter's own fold.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Protocol

import anyio

from lap_runtimes.base import (
    MAX_REF_BYTES,
    Answer,
    Answers,
    Event,
    Heartbeat,
    Prompt,
    Ref,
    together,
)
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure
from lap_runtimes.http import Reply
from lap_runtimes.responses_items import Json, mapping
from lap_runtimes.stream import StreamReader, frames

MAX_EVENT = 72 * 1024 * 1024
"""Bytes of one event: files come inside it."""
MAX_ID = 512
"""Characters of an id that is kept in a ref."""
MAX_PAGES = 1000
"""Pages of a list that are read before a server is taken to repeat itself."""


Work = Callable[[], Coroutine[Any, Any, None]]
Beside = Callable[[Work], None]


class Fold(Protocol):
    """Events of a vendor in, events of ours out; `finished` when the session rests."""

    finished: bool

    def feed(self, body: Json) -> list[Event]: ...


def fed(fold: Fold, bodies: Iterable[Json]) -> Iterator[Event]:
    """What these events of a vendor mean, up to the one that finishes."""
    for body in bodies:
        if fold.finished:
            return
        yield from fold.feed(body)


async def followed(reply: Reply, fold: Fold) -> AsyncGenerator[Event, None]:
    """The events of an open stream until the fold is finished, or until the stream is lost."""
    reader = StreamReader(limit=MAX_EVENT)
    async with aclosing(reply.chunks()) as chunks, aclosing(frames(chunks, reader)) as read:
        async for frame in read:
            found = fold.feed(parsed(frame.data, frame.event)) if frame else []
            for event in together(found) or [Heartbeat()]:
                yield event
            if fold.finished:
                return


def parsed(data: str, name: str = "") -> Json:
    """The object of one frame; where it has no `type`, or the frame is an error, the frame's name
    is its type.  Raises `ProtocolError` for what is no JSON object."""
    try:
        body = mapping(json.loads(data))
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"the stream has an event that is not JSON: {exc}") from exc
    named = name == "error" or (name and not body.get("type"))
    return {**body, "type": name} if named else body


def objects(value: Any) -> list[Json]:
    """The objects of a list; what is no list has none."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def whole(value: Any) -> int:
    """A count, also one written as text; 0 for what is none."""
    try:
        return int(value) if isinstance(value, int | str) else 0
    except ValueError:
        return 0


@contextmanager
def preparing() -> Iterator[None]:
    """Requests that begin no work: whatever fails in them may be tried again."""
    try:
        yield
    except RuntimeFailure as exc:
        exc.sent = False
        raise


def segment(value: Any, what: str = "session") -> str:
    """One path segment, of an id that came from outside.  Raises `Rejected`."""
    text = str(value or "")
    if not text:
        raise Rejected(f"the runtime has given no {what}", kind="gone", sent=False)
    bad = any(c in "/\\?#%" or ord(c) <= 32 for c in text)
    if bad or text in (".", "..") or len(text) > MAX_ID:
        words = f"the runtime names a {what} that cannot be one: {text[:80]!r}"
        raise Rejected(words, kind="invalid", sent=False)
    return text


def prompt_text(prompt: Prompt) -> str:
    """The prompt as text, its structured input as JSON after it."""
    if prompt.input is None:
        return prompt.text
    given = json.dumps(dict(prompt.input), ensure_ascii=False)
    return "\n\n".join(filter(None, (prompt.text, given)))


def answer_text(answer: Answer) -> str:
    """What was answered to a question for a tool's result, or why it was declined."""
    text = answer.text
    if answer.data is not None and not text:
        text = json.dumps(dict(answer.data), ensure_ascii=False)
    return f"The call was declined. {text}".strip() if answer.decision == "deny" else text


def kept_open(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a ref keeps of the open questions.  Raises `ProtocolError` where it is too much."""
    if len(json.dumps(asked)) > MAX_REF_BYTES // 2:
        raise ProtocolError(
            f"the runtime asks {len(asked)} questions at once, which cannot be kept"
        )
    return asked


def paired(answers: Answers, ref: Ref) -> list[tuple[Any, Answer]]:
    """Each answer with what `ref["open"]` holds for its question.  Raises `Rejected`, before
    anything is sent, where not exactly the open questions are answered."""
    asked: Mapping[str, Any] = ref.get("open") or {}
    given = {answer.question_id: answer for answer in answers.answers}
    missing = [question for question in asked if question not in given]
    unknown = [question for question in given if question not in asked]
    if missing or unknown or not asked:
        words = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        raise Rejected(
            f"all open questions are answered at once ({words})", kind="invalid", sent=False
        )
    return [(asked[question], answer) for question, answer in given.items()]


def multipart(field: str, name: str, media_type: str, data: bytes) -> tuple[bytes, str]:
    """A form with one file in it (RFC 7578): the body, and its content type."""
    boundary = f"lap-{secrets.token_hex(16)}"
    shown = name.replace("\\", "%5C").replace('"', "%22").replace("\r", "").replace("\n", "")
    kind = media_type if media_type.isascii() and media_type.isprintable() else ""
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{field}"; filename="{shown}"\r\n'
        f"Content-Type: {kind or 'application/octet-stream'}\r\n\r\n"
    )
    return (
        head.encode() + data + f"\r\n--{boundary}--\r\n".encode(),
        f"multipart/form-data; boundary={boundary}",
    )


@asynccontextmanager
async def concurrently() -> AsyncIterator[Beside]:
    """Starts what runs beside the block, and ends it with the block."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:

        def beside(work: Work) -> None:
            tasks.start_soon(work)

        try:
            yield beside
        except (Exception, GeneratorExit) as error:
            # Not from inside the task group, which would wrap it.
            failure = error
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
