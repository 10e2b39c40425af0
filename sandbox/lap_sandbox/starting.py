"""The start of a container with a socket for its supervisor where that can be, else without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio.to_thread

from lap_sandbox.direct import INSIDE, Meetings
from lap_sandbox.engine import Attached, EngineRefused, Facts
from lap_sandbox.hardening import Placement

Start = Callable[[Placement], Awaitable[Attached]]


async def start(meetings: Meetings, facts: Facts, placement: Placement, one: Start) -> Attached:
    """`one` starts a container.

    Raises:
        LauncherUnavailable: it could not.
    """
    # gVisor and Kata give their guests no socket of the host's.
    guest = placement.gvisor or placement.runtime is not None
    if guest or not facts.address.startswith("unix://"):
        return await one(placement)
    meeting = await anyio.to_thread.run_sync(meetings.new)
    if meeting is None:
        return await one(placement)
    mounts = [*placement.mounts, meeting.mount]
    attached = None
    try:
        attached = await one(replace(placement, mounts=mounts, host_socket=INSIDE))
        return replace(attached, meeting=meeting)
    except EngineRefused as refused:
        if "mount" in refused.message or str(meeting.mount.source) in refused.message:
            # The engine sees another file system than we do.
            meetings.stop(refused.message)
    finally:
        if attached is None:
            await meeting.aclose()
    return await one(placement)
