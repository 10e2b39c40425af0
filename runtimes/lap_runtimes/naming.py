"""The vendor's id for a request, on the event that says how the request failed.  No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lap_runtimes.base import Done, Event
from lap_runtimes.http_errors import named_id


def named(event: Event, headers: Mapping[str, str]) -> Event:
    """The event; a failure that has no id of a request gets that of the answer it came in."""
    if not isinstance(event, Done) or event.outcome != "failed" or event.request_id:
        return event
    return replace(event, request_id=named_id(headers))
