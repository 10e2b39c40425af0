"""The start of a container with a socket for its supervisor where that can be, else without."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio.to_thread

from lap_sandbox.direct import INSIDE, Meeting, Meetings
from lap_sandbox.engine import Attached, Facts
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.hardening import Placement

logger = logging.getLogger(__name__)

Start = Callable[[Placement], Awaitable[Attached]]


async def start(meetings: Meetings, facts: Facts, placement: Placement, one: Start) -> Attached:
    """`one` starts a container.

    Raises:
        LauncherUnavailable: it could not.
    """
    # gVisor and Kata give their guests no socket of the host's.
    if placement.runtime is not None or not facts.address.startswith("unix://"):
        return await one(placement)
    meeting = await anyio.to_thread.run_sync(meetings.new)
    if meeting is None:
        return await one(placement)
    attached = await _with(meeting, placement, one)
    if attached is None:
        attached = await one(placement)
        meetings.stop()  # it was for the mount: the engine sees another file system than we do
    return attached


async def _with(meeting: Meeting, placement: Placement, one: Start) -> Attached | None:
    mounts = [*placement.mounts, meeting.mount]
    attached = None
    try:
        attached = await one(replace(placement, mounts=mounts, host_socket=INSIDE))
    except LauncherUnavailable as error:
        logger.debug("not with a socket: %s", error.message)
    finally:
        if attached is None:
            await meeting.aclose()
    return attached and replace(attached, meeting=meeting)
