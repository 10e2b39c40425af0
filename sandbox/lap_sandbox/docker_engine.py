"""The Docker Engine through its SDK, and the launcher made of it.  Only this and `docker_client.py`
import `docker`; its calls block, so each runs in a worker thread with a deadline of its own."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import docker
import docker.errors
import requests
from docker.types import LogConfig, Mount, Ulimit

from lap_sandbox import blocking, docker_client, hardening, hosts, starting
from lap_sandbox.base import LauncherConfig, Limits
from lap_sandbox.direct import Meetings
from lap_sandbox.docker_client import CALL_SECONDS, FIND_SECONDS
from lap_sandbox.engine import (
    ENGINE_DOWN,
    Attached,
    BuildFailed,
    BuildRequest,
    EngineRefused,
    Facts,
    Found,
    describe_error,
)
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.hardening import Placement
from lap_sandbox.launcher import ContainerLauncher
from lap_sandbox.preflight import PODMAN
from lap_sandbox.profile_file import ProfileFile

T = TypeVar("T")

INTRODUCTION_SECONDS = 10.0
"""For what an engine that did answer says of itself: Podman runs programs to know its version."""
BUILD_SECONDS = 1800
"""Without a line of output."""
_LOST = (requests.exceptions.ConnectionError, requests.exceptions.Timeout, ConnectionError)
_FAILED = (*_LOST, docker.errors.DockerException, TimeoutError, OSError, ValueError)

INSTALL = (
    "Install and start Docker Engine (https://docs.docker.com/engine/install/), Docker Desktop, "
    "Colima or Podman, or set DOCKER_HOST to where it listens."
)


class DockerEngine:
    """One engine, found when first needed and again after it was lost."""

    def __init__(self, environ: Mapping[str, str], home: Path) -> None:
        self._environ = environ
        self._home = home
        self._client: Any = None
        self._facts: Facts | None = None
        self._closed = False
        self._profile = ProfileFile()
        self._meetings = Meetings(environ.get("XDG_RUNTIME_DIR"))

    async def _call(
        self,
        work: Callable[[Any], T],
        *,
        deadline: float = CALL_SECONDS + 5,
        unwanted: Callable[[T], None] = blocking.keep,
        lasting: bool = False,
    ) -> T:
        """Run `work` with a client, in a thread.  One that hangs is left behind at the deadline;
        it ends by the SDK's own timeout.  `lasting`: it may take so long that the program ends
        before it."""
        client, _ = await self._found()
        job = partial(self._work, client, work)
        try:
            if lasting:
                return await blocking.call_lasting(job, deadline)
            return await blocking.call(job, deadline, unwanted)
        except (*_LOST, TimeoutError) as error:
            self._forget(client)
            raise LauncherUnavailable(f"{ENGINE_DOWN} ({_short(error)})", remedy=INSTALL) from None
        except docker.errors.DockerException as error:
            raise EngineRefused(f"The container engine refused: {describe_error(error)}") from None

    def _work(self, client: Any, work: Callable[[Any], T]) -> T:
        """Blocks.  A client that was given up meanwhile has connected anew for this: it is closed
        once more."""
        try:
            return work(client)
        finally:
            if client is not self._client:
                client.close()

    def _forget(self, client: Any) -> None:
        """Unless another one is there by now."""
        if client is self._client and client is not None:
            self._client = self._facts = None
            with contextlib.suppress(OSError):  # it is broken already
                client.close()

    async def find(self) -> Facts:
        client, facts = await self._found()
        if client is not self._client:
            client.close()
        return facts

    async def _found(self) -> tuple[Any, Facts]:
        """A client, which is ours to close where this was closed or another one came first."""
        client, facts = self._client, self._facts
        if client is not None and facts is not None:
            try:
                ping = partial(self._work, client, docker_client.ping)
                await blocking.call(ping, FIND_SECONDS, blocking.keep)
                return client, facts
            except (*_LOST, TimeoutError, docker.errors.DockerException):
                # It may have been restarted, or another one may have taken over.
                self._forget(client)
        return await self._search()

    async def _search(self) -> tuple[Any, Facts]:
        tried: list[str] = []
        deadline = time.monotonic() + FIND_SECONDS
        found = await anyio.to_thread.run_sync(hosts.candidates, self._environ, self._home)
        for candidate in found:
            left = deadline - time.monotonic()
            if left <= 0:
                tried.append(f"{candidate.address} (from {candidate.how}): no time left to ask")
                continue
            try:
                await blocking.call(
                    partial(docker_client.ask, candidate, left), left, blocking.keep
                )
                client, facts = await blocking.call(
                    partial(docker_client.connect, candidate),
                    INTRODUCTION_SECONDS,
                    lambda made: made[0].close(),
                )
            except _FAILED as error:
                tried.append(f"{candidate.address} (from {candidate.how}): {_short(error)}")
            else:
                if self._client is None and not self._closed:
                    self._client, self._facts = client, facts
                return client, facts
        where = "; ".join(tried) or "no engine's socket was found"
        raise LauncherUnavailable(f"No container engine answers: {where}.", remedy=INSTALL)

    async def image_id(self, tag: str) -> tuple[str, Mapping[str, str]] | None:
        def inspect(client: Any) -> tuple[str, Mapping[str, str]] | None:
            try:
                image = client.images.get(tag)
            except docker.errors.ImageNotFound:
                return None
            return str(image.id), dict(image.labels)

        return await self._call(inspect)

    async def build(self, request: BuildRequest, on_line: Callable[[str], None]) -> None:
        stop = False

        def run(client: Any) -> None:
            lines = client.api.build(
                fileobj=io.BytesIO(request.context),
                custom_context=True,
                tag=request.tag,
                buildargs=dict(request.arguments),
                labels=dict(request.labels),
                network_mode="host",
                rm=True,
                forcerm=True,
                decode=True,
                timeout=BUILD_SECONDS,
            )
            for line in lines:
                if stop:  # leaving closes the connection, which ends the build
                    return
                if "error" in line:
                    raise BuildFailed(str(line["error"])[:2000])
                on_line(str(line.get("stream") or line.get("status") or ""))

        try:
            await self._call(run, deadline=4 * BUILD_SECONDS, lasting=True)
        finally:
            stop = True

    async def discard_image(self, id: str) -> None:
        def discard(client: Any) -> None:
            # Used by a container, or gone: fine.  With another name it is somebody's.
            with contextlib.suppress(docker.errors.APIError):
                if not client.api.inspect_image(id)["RepoTags"]:
                    client.api.remove_image(id)

        await self._call(discard)

    async def export_image(self, id: str, file: Path) -> None:
        ours, left = threading.Event(), threading.Event()

        def write(client: Any) -> None:
            with file.open("xb") as out:
                ours.set()
                for piece in client.api.get_image(id):
                    if left.is_set():
                        break
                    out.write(piece)

        try:
            await self._call(write, deadline=BUILD_SECONDS)
        except BaseException:
            left.set()
            if ours.is_set():  # half an image is none
                with anyio.CancelScope(shield=True):
                    await anyio.Path(file).unlink(missing_ok=True)
            raise

    async def import_image(self, file: Path) -> None:
        def load(client: Any) -> None:
            with file.open("rb") as data:
                for line in client.api.load_image(data, quiet=True):
                    if "error" in line:
                        raise docker.errors.DockerException(str(line["error"]))

        await self._call(load, deadline=BUILD_SECONDS)

    async def start(self, limits: Limits, placement: Placement, uid: int) -> Attached:
        facts = self._facts or await self.find()
        if PODMAN in facts.components:
            file = await anyio.to_thread.run_sync(self._profile.path)
            placement = replace(placement, profile_file=file)

        async def one(placement: Placement) -> Attached:
            start = partial(_start, limits=limits, placement=placement, uid=uid)
            # Its input ends with the connection, and the engine removes what has ended.
            return await self._call(start, unwanted=lambda attached: attached.release())

        return await starting.start(self._meetings, facts, placement, one)

    async def oom_killed(self, id: str) -> bool:
        def inspect(client: Any) -> bool:
            try:
                state = client.api.inspect_container(id)["State"]
            except docker.errors.NotFound:
                return docker_client.was_short_of_memory(client, id)
            return bool(state.get("OOMKilled"))

        return await self._call(inspect)

    async def remove(self, id: str) -> None:
        await self._call(partial(_remove, id=id))

    async def containers(self, label: str) -> Sequence[Found]:
        def listed(client: Any) -> list[Found]:
            found = client.api.containers(all=True, filters={"label": label})
            return [
                Found(
                    id=entry["Id"],
                    running=entry.get("State") == "running",
                    labels=entry.get("Labels") or {},
                )
                for entry in found
            ]

        return await self._call(listed)

    async def aclose(self) -> None:
        self._closed = True
        self._forget(self._client)
        await anyio.to_thread.run_sync(self._profile.remove)


def _short(error: BaseException) -> str:
    text = str(error)
    for known in ("Permission denied", "Connection refused", "No such file", "timed out"):
        if known.lower() in text.lower():
            return known.lower()
    return type(error).__name__ if len(text) > 200 or not text else text


def _start(client: Any, limits: Limits, placement: Placement, uid: int) -> Attached:
    """Create, attach, start.  Attached before the start, so that no byte is missed and the end of
    this process is seen from the first moment."""
    container = client.containers.create(
        **hardening.options(limits, placement, uid),
        ulimits=[
            Ulimit(name=name, soft=value, hard=value)
            for name, value in hardening.ulimits(limits, placement).items()
        ],
        log_config=LogConfig(type="none"),
        # Not `volumes`, for which an engine makes the folder that is not there.
        mounts=[
            Mount(type="bind", source=str(each.source), target=each.target, read_only=True)
            for each in placement.mounts
        ],
    )
    stream = None
    try:
        stream = client.api.attach_socket(
            container.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        )
        container.start()
    except BaseException as error:
        if stream is not None:
            _release(getattr(stream, "_sock", stream), stream)
        if (response := getattr(error, "response", None)) is not None:
            response.close()  # of a refused attachment: it is open still
        _remove(client, container.id)
        raise
    connection = getattr(stream, "_sock", stream)
    return Attached(
        id=container.id, connection=connection, release=partial(_release, connection, stream)
    )


def _release(connection: Any, stream: Any) -> None:
    """Close an attached socket, and the file object over it that the SDK's response holds."""
    connection.close()
    (stream._response if stream is connection else stream).close()


def _remove(client: Any, id: str) -> None:
    try:
        client.api.remove_container(id, force=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        # It is being removed already, by itself.
        if error.status_code != 409:
            raise


class DockerLauncher(ContainerLauncher):
    """Sandboxes in containers of a Docker Engine.

    `environ` is where DOCKER_HOST, DOCKER_CONTEXT, proxies and certificates for building the
    image are looked up; `home` is where the Docker CLI's folder is.
    """

    name = "docker"

    def __init__(self, config: LauncherConfig, environ: Mapping[str, str], home: Path) -> None:
        super().__init__(config, DockerEngine(environ, home), environ)
