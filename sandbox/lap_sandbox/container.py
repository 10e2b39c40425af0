"""One started container with its link: from creation to removal.  Runs no executions."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping
from typing import NoReturn

import anyio

from lap_sandbox.base import Limits
from lap_sandbox.direct import Meeting
from lap_sandbox.engine import Attached, Engine
from lap_sandbox.errors import FrameError, LauncherUnavailable, SandboxGone
from lap_sandbox.hardening import Placement, choose_uid
from lap_sandbox.link import Link
from lap_sandbox.runner import wire
from lap_sandbox.runner.wire import Frame, Kind
from lap_sandbox.tasks import Tasks
from lap_sandbox.waiting import Signal

READY_SECONDS = 60.0
"""From the start of a container to its first word, and from there to a warm worker."""


class Container:
    """A container whose supervisor answered."""

    def __init__(self, engine: Engine, attached: Attached, link: Link, limits: Limits) -> None:
        self._engine = engine
        self.id = attached.id
        self.link = link
        self.limits = limits
        self.born = time.monotonic()
        self._warm = Signal()
        self._removed = False

    def on_word(self, frame: Frame) -> None:
        """What the supervisor says by itself."""
        if frame.kind == Kind.WARM:
            self._warm.set()

    async def warmed(self) -> bool:
        """Wait until it has a worker with everything imported; whether it has."""
        self.link.on_end(self._warm.set)
        try:
            await self.link.send(wire.encode(Kind.WARM_UP))
            await self._warm.wait(READY_SECONDS)
        except SandboxGone:
            return False
        finally:
            self.link.off_end(self._warm.set)
        return self._warm.is_set() and self.alive

    @property
    def alive(self) -> bool:
        return self.link.open

    async def remove(self) -> None:
        """End it and wait until nothing of it is left, or until the engine is known to be gone
        (the closed link ends the container all the same)."""
        self.link.close()
        if self._removed:
            return
        self._removed = True
        with contextlib.suppress(LauncherUnavailable):
            await self._engine.remove(self.id)


async def start(
    engine: Engine, tasks: Tasks, limits: Limits, placement: Placement, *, warm: bool = False
) -> Container:
    """A new container, up to the first word of its supervisor; with `warm` up to a worker that has
    everything imported.

    Raises:
        LauncherUnavailable: the engine refused it, or it did not get ready.
    """
    uid = choose_uid(small=placement.small_uids)
    with anyio.CancelScope(shield=True):  # what was created must be known to be removed
        attached = await engine.start(limits, placement, uid)
    link = Link(attached.connection, attached.release, attached.streams)
    container = Container(engine, attached, link, limits)
    try:
        hello = await _hello(container, tasks, attached)
        well = hello is not None and hello.header.get("protocol") == wire.PROTOCOL
        well = well and (not warm or await container.warmed())
    except BaseException:
        with anyio.CancelScope(shield=True):
            await container.remove()
        raise
    if not well:
        await _give_up(engine, container)
    return container


async def _give_up(engine: Engine, container: Container) -> NoReturn:
    """
    Raises:
        LauncherUnavailable: why it did not get ready.
    """
    words = container.link.stderr.strip()[-500:] or "it said nothing"
    oom = await engine.oom_killed(container.id)
    await container.remove()
    why = "it ran out of memory while starting" if oom else words
    raise LauncherUnavailable(
        f"The sandbox did not get ready: {why}.",
        remedy="Rebuild its image: `lap-mcp sandbox build`.",
    )


async def _hello(container: Container, tasks: Tasks, attached: Attached) -> Frame | None:
    """The supervisor's first frame; starts the reading of the link."""
    link = container.link
    frames: list[Frame] = []
    came = Signal()

    def on_frame(frame: Frame) -> None:
        if frame.kind == Kind.READY and not frames:
            _meet(link, attached.meeting, frame)
            frames.append(frame)
            came.set()
        container.on_word(frame)

    link.expect(on_frame, id=0)
    link.on_end(came.set)
    tasks.start(link.run(), "sandbox link")
    try:
        await came.wait(READY_SECONDS)
    finally:
        link.off_end(came.set)
        if attached.meeting is not None:
            await attached.meeting.aclose()
    return frames[0] if frames else None


def _meet(link: Link, meeting: Meeting | None, ready: Frame) -> None:
    """Go over to the socket at which the supervisor has come.

    Raises:
        FrameError: it has not, whatever it says.
    """
    if meeting is None:
        return
    if ready.header.get("direct") is not True:
        meeting.give_up()
        return
    try:
        link.move_to(meeting.accept())
    except OSError as error:
        raise FrameError(f"nobody has come to the socket ({error})") from None


def new_labels(
    instance: str, owner: str, where: str, expires: float, extra: Mapping[str, str]
) -> dict[str, str]:
    """Labels of one container: whose it is, so that it can be reaped, and until when that is to be
    believed (seconds since 1970) where nobody can look whether its owner lives."""
    return {
        **{f"lap.label.{name}": value for name, value in extra.items()},
        "lap.managed": "1",
        "lap.instance": instance,
        "lap.owner": owner,
        "lap.machine": where,
        "lap.expires": str(int(expires)),
        "lap.sandbox": uuid.uuid4().hex,
    }


async def is_well(container: Container, seconds: float) -> bool:
    """It answers within `seconds`."""
    try:
        await container.link.ping(seconds)
    except SandboxGone:
        return False
    return True
