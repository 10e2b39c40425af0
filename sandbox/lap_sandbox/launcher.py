"""Sandboxes in containers of whatever `Engine`: preparation, the warm pool, reaping, closing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from lap_sandbox import (
    carrying,
    container,
    image_build,
    owner,
    preflight,
    wheelhouse,
)
from lap_sandbox.base import Check, LauncherConfig, Limits, Mount, Preparation
from lap_sandbox.container import Container
from lap_sandbox.engine import BuildFailed, Engine, Found
from lap_sandbox.errors import LauncherUnavailable, LimitReached
from lap_sandbox.hardening import Placement
from lap_sandbox.session import ContainerSandbox
from lap_sandbox.tasks import Tasks
from lap_sandbox.warm_pool import WarmPool

WARM_PING_SECONDS = 0.3
MIN_MEMORY = 256 * 1024 * 1024
MAX_SANDBOXES = 200
"""Of one launcher: a last line of defence, callers have their own quotas."""


class ContainerLauncher:
    """`Launcher` over an engine.  Holds every container it started until it is removed."""

    name = "containers"

    def __init__(self, config: LauncherConfig, engine: Engine, environ: Mapping[str, str]) -> None:
        self._config = config
        self._engine = engine
        self._environ = environ
        self._tasks = Tasks()
        self._preparing = anyio.Lock()
        self._image: str | None = None
        self._mounts: Sequence[Mount] = ()
        self._owner = ("", "")
        self._preparation = Preparation(ready=False, words="the sandbox was not prepared yet")
        self._progress: tuple[image_build.Progress, float] | None = None
        self._warm = WarmPool(self._tasks, self._start_warm, size=config.warm, age=config.warm_age)
        self._sandboxes: set[ContainerSandbox] = set()
        self._opening = 0
        self._closed = False

    # -- preparation

    def preparation(self) -> Preparation:
        if self._progress is not None:
            progress, begun = self._progress
            return progress.preparation(time.monotonic() - begun)
        return self._preparation

    async def reach(self) -> None:
        """See whether what makes sandboxes answers.

        Raises:
            LauncherUnavailable
        """
        await self._engine.find()

    async def prepare(self) -> None:
        await self.build(force=False)
        self._warm.begin()

    async def build(self, *, force: bool) -> None:
        """Find the engine and see to it that the image is there and current.

        `force` builds even where it is.

        Raises:
            LauncherUnavailable
        """
        async with self._preparing:
            self._require_open()
            try:
                self._mounts = await self._all_mounts()
                self._image = await self._current_image(force)
            except LauncherUnavailable as error:
                self._image = None
                self._preparation = Preparation(
                    ready=False, words="the sandbox is not available", error=str(error)
                )
                raise
            self._preparation = Preparation(ready=True, words="ready", fraction=1.0)

    async def _all_mounts(self) -> Sequence[Mount]:
        house, cache = self._config.wheelhouse, self._config.cache
        if house is None or cache is None:
            return self._config.mounts
        wheels = await anyio.to_thread.run_sync(wheelhouse.mount, house, cache)
        return [*self._config.mounts, wheels]

    async def _current_image(self, force: bool) -> str:
        await self._engine.find()
        tag = self._config.image
        flavor = image_build.flavor_of(tag)
        if not self._owner[0]:
            self._owner = await anyio.to_thread.run_sync(owner.identity)
        found = await self._engine.image_id(tag)
        if flavor is None:
            if found is None:
                raise LauncherUnavailable(
                    f"The sandbox image `{tag}` is not on this engine.",
                    remedy="Pull it, or set `image` of `[sandbox]` to `lap-sandbox:core`.",
                )
            return found[0]
        wanted = await anyio.to_thread.run_sync(image_build.content_hash, flavor)
        if found is not None and not force and found[1].get(image_build.HASH_LABEL) == wanted:
            return found[0]
        await self._build_image(tag, flavor)
        built = await self._engine.image_id(tag)
        if built is None:
            raise LauncherUnavailable(f"The sandbox image `{tag}` was built but is not there.")
        if found is not None and found[0] != built[0]:
            await self._engine.discard_image(found[0])
        return built[0]

    async def _build_image(self, tag: str, flavor: str) -> None:
        progress = image_build.Progress()
        self._progress = (progress, time.monotonic())
        try:
            request = await anyio.to_thread.run_sync(
                image_build.request, tag, flavor, self._environ
            )
            await self._engine.build(request, progress.line)
        except BuildFailed as error:
            raise LauncherUnavailable(
                f"The sandbox image could not be built ({progress.doing}): {error}",
                remedy="See why with `lap-mcp sandbox build`. It needs Debian's package mirror "
                "and PyPI; proxies are taken from HTTP_PROXY and HTTPS_PROXY.",
            ) from None
        finally:
            self._progress = None

    async def export_image(self, file: Path) -> None:
        """Write the image to a new file.  Raises: SandboxError."""
        await carrying.export_image(self._engine, self._config.image, file)

    async def import_image(self, file: Path) -> str:
        """Take an image that was exported; its id.  Raises: SandboxError."""
        return await carrying.import_image(self._engine, self._config.image, file)

    def _require_open(self) -> None:
        if self._closed:
            raise LauncherUnavailable("The launcher was closed.")

    # -- sandboxes

    async def open(
        self, limits: Limits, *, labels: dict[str, str] | None = None
    ) -> ContainerSandbox:
        self._require_open()
        _check(limits)
        if len(self._sandboxes) + self._opening >= MAX_SANDBOXES:
            raise LimitReached(f"{MAX_SANDBOXES} sandboxes are open already. Close some first.")
        self._opening += 1
        try:
            taken = await self._take_warm(limits)
            if taken is None:
                taken = await self._start(limits, labels or {})
        finally:
            self._opening -= 1
        if self._closed:
            await taken.remove()
            self._require_open()
        sandbox = ContainerSandbox(
            taken,
            limits,
            spawn=lambda: self._start(limits, labels or {}),
            ended=self._sandboxes.discard,
            was_oom=self._engine.oom_killed,
        )
        self._sandboxes.add(sandbox)
        self._warm.refill(sandbox.answered)
        return sandbox

    async def _take_warm(self, limits: Limits) -> Container | None:
        """A waiting container of the same size that answers."""
        return await self._warm.take(
            lambda waiting: _same_size(waiting.limits, limits),
            lambda waiting: container.is_well(waiting, WARM_PING_SECONDS),
        )

    async def _start_warm(self) -> Container:
        return await self._start(self._config.limits, {}, warm=True)

    async def _start(
        self, limits: Limits, labels: Mapping[str, str], *, warm: bool = False
    ) -> Container:
        if self._image is None:
            await self.build(force=False)
        self._require_open()
        facts = await self._engine.find()
        assert self._image is not None
        placement = Placement(
            image=self._image,
            runtime=self._config.runtime,
            apparmor="apparmor" in facts.security,
            small_uids=facts.small_uids,
            gvisor=(self._config.runtime or facts.default_runtime) in facts.gvisor,
            ungrouped=bool(facts.unlimited),
            idle_stop=self._config.idle_stop,
            mounts=self._mounts,
            labels=container.new_labels(
                self._config.instance, *self._owner, time.time() + self._config.life, labels
            ),
        )
        return await container.start(self._engine, self._tasks, limits, placement, warm=warm)

    # -- looking after

    async def preflight(self) -> Sequence[Check]:
        try:
            facts = await self._engine.find()
        except LauncherUnavailable as error:
            return [Check(name="engine", level="error", words=error.message, remedy=error.remedy)]
        found = await self._engine.image_id(self._config.image)
        return await anyio.to_thread.run_sync(preflight.checks, facts, self._config, found)

    @property
    def limits(self) -> Limits:
        """What the operator lets one sandbox use."""
        return self._config.limits

    @property
    def ready_sandboxes(self) -> int:
        """How many wait, with everything imported, to be taken."""
        return len(self._warm)

    async def running(self) -> Sequence[Mapping[str, str]]:
        """Containers of this instance, of any process: {container, state, owner}.

        Raises: LauncherUnavailable.
        """
        await self._engine.find()
        found = await self._engine.containers(f"lap.instance={self._config.instance}")
        return [
            {
                "container": entry.id[:12],
                "state": "running" if entry.running else "ended",
                "owner": entry.labels.get("lap.owner", ""),
            }
            for entry in found
        ]

    async def reap(self) -> int:
        own = {sandbox.container_id for sandbox in self._sandboxes}
        own |= {waiting.id for waiting in self._warm.all()}
        count = 0
        for found in await self._engine.containers(f"lap.instance={self._config.instance}"):
            if found.labels.get("lap.managed") != "1" or found.id in own:
                continue
            if await anyio.to_thread.run_sync(_is_left_behind, found):
                await self._engine.remove(found.id)
                count += 1
        return count

    async def aclose(self) -> None:
        self._closed = True
        with anyio.CancelScope(shield=True):
            # First what could still start containers, then the containers.
            await self._tasks.aclose()
            async with anyio.create_task_group() as group:
                for sandbox in list(self._sandboxes):
                    group.start_soon(sandbox.close)
                group.start_soon(self._warm.aclose)
            await self._engine.aclose()


def _is_left_behind(found: Found) -> bool:
    """Its server is dead.  After a reboot nothing of before runs, whoever it belonged to; what runs
    for a server that cannot be seen from here is believed to be in use until it expires."""
    there = found.labels.get("lap.machine", "")
    if there != owner.machine():
        return not found.running or _has_expired(found)
    return owner.is_dead(found.labels.get("lap.owner", ""), there)


def _has_expired(found: Found) -> bool:
    expires = found.labels.get("lap.expires", "")
    return expires.isdecimal() and int(expires) < time.time()


def _same_size(one: Limits, other: Limits) -> bool:
    """The containers of both are alike; what is kept of output is not the container's matter."""

    def size(limits: Limits) -> Limits:
        plain = Limits()
        return replace(
            limits,
            output_head=plain.output_head,
            output_tail=plain.output_tail,
            stdout_short=plain.stdout_short,
            stderr_short=plain.stderr_short,
            whole=plain.whole,
            images=plain.images,
            image_size=plain.image_size,
            reported_files=plain.reported_files,
        )

    return size(one) == size(other)


def _check(limits: Limits) -> None:
    """
    Raises:
        LimitReached: they do not make sense together.
    """
    if limits.memory < MIN_MEMORY:
        raise LimitReached(f"A sandbox needs at least {MIN_MEMORY >> 20} MiB of memory.")
    if limits.disk + limits.tmp >= limits.memory:
        raise LimitReached("Files count against memory: `disk` + `tmp` must be less than it.")
    if limits.pids < 8 or limits.cpus <= 0:
        raise LimitReached("A sandbox needs at least 8 processes and some CPU.")
