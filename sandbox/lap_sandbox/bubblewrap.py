"""Sandboxes on Linux without a container engine: what an `Engine` does, by bubblewrap.

Pool, sessions and wire are those of every launcher.  The image is a virtual environment
(`environment.py`), a container is a process tree (`contained.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from lap_sandbox import (
    bpf,
    bubblewrap_command,
    bubblewrap_host,
    bubblewrap_preflight,
    cgroups,
    contained,
    image_build,
    seccomp,
)
from lap_sandbox.base import Check, LauncherConfig, Limits
from lap_sandbox.bubblewrap_host import Host
from lap_sandbox.cgroups import Group, Parents
from lap_sandbox.contained import Contained, Records
from lap_sandbox.engine import Attached, BuildRequest, Facts, Found
from lap_sandbox.environment import Environments
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.hardening import Placement
from lap_sandbox.launcher import ContainerLauncher

NOT_CARRIED = "An environment of bubblewrap belongs to one interpreter of one machine."
MADE_THERE = (
    "Make it there: `lap-mcp sandbox build --launcher bubblewrap`, with PIP_INDEX_URL, or "
    "PIP_NO_INDEX=1 and PIP_FIND_LINKS, pointing to what that machine can reach."
)


class BubblewrapEngine:
    """Implements `Engine`.  `folder` is below LAP_HOME."""

    def __init__(self, config: LauncherConfig, environ: Mapping[str, str], folder: Path) -> None:
        self._config = config
        self._environ = environ
        self._environments = Environments(folder / "environments", environ)
        self._records = Records(folder / "running")
        self._host: Host | None = None
        self._parents = cgroups.NONE
        self._filter = b""
        self._running: dict[str, tuple[Contained, Group | None]] = {}

    async def look(self) -> tuple[Host, Parents]:
        """
        Raises:
            LauncherUnavailable
        """
        if self._host is None:
            _check(self._config)
            host = await anyio.to_thread.run_sync(bubblewrap_host.look, self._environ)
            self._parents = await anyio.to_thread.run_sync(cgroups.find)
            self._filter = bpf.filter_for(seccomp.profile(), host.machine)
            await anyio.to_thread.run_sync(bubblewrap_preflight.probe, host)
            self._host = host
        return self._host, self._parents

    async def find(self) -> Facts:
        host, parents = await self.look()
        version = ".".join(map(str, host.version))
        return Facts(
            address=str(host.bwrap),
            how="bubblewrap",
            version=version,
            components={"bubblewrap": version},
            security=("seccomp",) if host.root else ("seccomp", "userns"),
            cgroup_version=str(parents.version),
            runtimes=(),
        )

    async def image_id(self, tag: str) -> tuple[str, Mapping[str, str]] | None:
        host, _ = await self.look()
        flavor = image_build.flavor_of(tag)
        assert flavor is not None, "checked before"
        found = await anyio.to_thread.run_sync(self._environments.newest, flavor, host)
        return (found.id, found.labels) if found else None

    async def build(self, request: BuildRequest, on_line: Callable[[str], None]) -> None:
        host, _ = await self.look()
        stop = False
        build = partial(self._environments.build, request, host, on_line, stopped=lambda: stop)
        try:
            await anyio.to_thread.run_sync(build, abandon_on_cancel=True)
        finally:
            stop = True

    async def discard_image(self, id: str) -> None:
        def discard() -> None:
            records = self._records.all().values()
            in_use = any(
                record.get("image") == id and contained.is_running(record["pid"], record["start"])
                for record in records
            )
            if not in_use:
                self._environments.remove(id)

        await anyio.to_thread.run_sync(discard)

    async def export_image(self, id: str, file: Path) -> None:
        raise LauncherUnavailable(NOT_CARRIED, remedy=MADE_THERE)

    async def import_image(self, file: Path) -> None:
        raise LauncherUnavailable(NOT_CARRIED, remedy=MADE_THERE)

    async def start(self, limits: Limits, placement: Placement, uid: int) -> Attached:
        host, parents = await self.look()
        environment = await anyio.to_thread.run_sync(self._environments.get, placement.image)
        if environment is None:
            raise LauncherUnavailable(
                "The sandbox's environment is gone.", remedy="Run `lap-mcp sandbox build`."
            )
        id = uuid.uuid4().hex
        record = {
            "pid": 0,
            "start": "",
            "labels": dict(placement.labels),
            "image": placement.image,
            "groups": [str(path) for path in cgroups.paths(parents, f"lap-{id}")],
        }
        await anyio.to_thread.run_sync(self._records.write, id, record)
        group = None
        try:
            if parents.folders:
                group = await anyio.to_thread.run_sync(cgroups.make, parents, f"lap-{id}", limits)
            command = partial(
                self._command, id, host, environment.folder, limits, placement, uid, group
            )
            started = await contained.start(command, self._filter, group)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._forget(id, group)
            if isinstance(error, OSError):
                raise LauncherUnavailable(f"The sandbox cannot be started: {error}.") from None
            if isinstance(error, LauncherUnavailable):
                raise bubblewrap_host.why_not(error.message) from None
            raise
        self._running[id] = (started, group)
        record |= {"pid": started.pid, "start": started.start}
        await anyio.to_thread.run_sync(self._records.write, id, record)
        return Attached(
            id=id,
            connection=started.connection,
            release=started.release,
            streams=started.streams,
        )

    def _command(
        self,
        id: str,
        host: Host,
        environment: Path,
        limits: Limits,
        placement: Placement,
        uid: int,
        group: Group | None,
        descriptors: bubblewrap_command.Descriptors,
    ) -> list[str]:
        return bubblewrap_command.command(
            host,
            environment,
            limits,
            placement,
            uid,
            id=id,
            group=group,
            descriptors=descriptors,
        )

    async def oom_killed(self, id: str) -> bool:
        found = self._running.get(id)
        if found is None or found[1] is None:
            return False
        return await anyio.to_thread.run_sync(found[1].out_of_memory)

    async def remove(self, id: str) -> None:
        found = self._running.pop(id, None)
        if found is not None:
            started, group = found
            await contained.end(started)
            await self._forget(id, group)
            return
        record = await anyio.to_thread.run_sync(self._records.read, id)
        if record is not None:
            await anyio.to_thread.run_sync(contained.end_recorded, id, record)
            await anyio.to_thread.run_sync(self._records.remove, id)

    async def _forget(self, id: str, group: Group | None) -> None:
        if group is not None:
            await anyio.to_thread.run_sync(group.remove)
        await anyio.to_thread.run_sync(self._records.remove, id)

    async def containers(self, label: str) -> Sequence[Found]:
        name, _, value = label.partition("=")

        def listed() -> list[Found]:
            return [
                Found(
                    id=id,
                    running=contained.is_running(record["pid"], record["start"]),
                    labels=record["labels"],
                )
                for id, record in self._records.all().items()
                if record["labels"].get(name) == value
            ]

        return await anyio.to_thread.run_sync(listed)

    async def aclose(self) -> None:
        for id in list(self._running):
            await self.remove(id)


def _check(config: LauncherConfig) -> None:
    """
    Raises:
        LauncherUnavailable: something is asked for that only an engine has.
    """
    if config.runtime is not None:
        raise LauncherUnavailable(
            f'`runtime = "{config.runtime}"` needs a container engine.',
            remedy='Take it out of `[sandbox]`, or set `launcher = "docker"`.',
        )
    if image_build.flavor_of(config.image) is None:
        raise LauncherUnavailable(
            f'`image = "{config.image}"` needs a container engine.',
            remedy='Set `image` of `[sandbox]` to `lap-sandbox:core`, or `launcher = "docker"`.',
        )


class BubblewrapLauncher(ContainerLauncher):
    """Sandboxes without an engine.  `environ` is where PATH, proxies and pip's settings for making
    the environment are looked up; `home` is LAP_HOME."""

    name = "bubblewrap"

    def __init__(self, config: LauncherConfig, environ: Mapping[str, str], home: Path) -> None:
        self._bubblewrap = BubblewrapEngine(config, environ, home / "bubblewrap")
        super().__init__(config, self._bubblewrap, environ)

    async def preflight(self) -> Sequence[Check]:
        try:
            host, parents = await self._bubblewrap.look()
        except LauncherUnavailable as error:
            return [
                Check(name="bubblewrap", level="error", words=error.message, remedy=error.remedy)
            ]
        found = await self._bubblewrap.image_id(self._config.image)
        return await anyio.to_thread.run_sync(
            bubblewrap_preflight.checks, host, parents, self._config, found
        )
