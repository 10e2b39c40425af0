"""Reading a stream in a test: all of it, its texts, its questions, its end."""

from __future__ import annotations

from typing import Any

from lap_runtimes.base import Asked, Done, Event, Message, Question, Ref


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


async def until(events: Any, kind: type[Event]) -> list[Event]:
    """What comes up to the first event of this kind, and that."""
    seen: list[Event] = [await anext(events)]
    while not isinstance(seen[-1], kind):
        seen.append(await anext(events))
    return seen


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Message)]


def questions(events: list[Event]) -> list[Question]:
    return [event.question for event in events if isinstance(event, Asked)]


def done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def last_ref(events: list[Event]) -> Ref:
    return [event.ref for event in events if event.ref is not None][-1]
