"""The Docker Engine through its SDK, and the launcher made of it.  The only file that imports
`docker`; its calls block, so each runs in a worker thread with a deadline of its own."""

from __future__ import annotations

import contextlib
import io
import socket
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

from lap_sandbox import hardening, hosts, starting
from lap_sandbox.attempt import Attempt
from lap_sandbox.base import LauncherConfig, Limits
from lap_sandbox.direct import Meetings
from lap_sandbox.engine import (
    ENGINE_DOWN,
    Attached,
    BuildFailed,
    BuildRequest,
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

FIND_SECONDS = 0.8
"""For one question whether an engine answers.  Asking again after the one in use was lost, and
after a warm sandbox did not answer, stays under two seconds."""
CALL_SECONDS = 20
ASKING_VERSION = "1.44"
"""Of no consequence: the question that it is given for has no version."""
BUILD_SECONDS = 1800
"""Without a line of output."""
SSH = "ssh:// is not supported; forward its socket (ssh -L) and set DOCKER_HOST to that"
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
        self._profile = ProfileFile()
        self._meetings = Meetings(environ.get("XDG_RUNTIME_DIR"))

    async def _call(self, call: Callable[[], T], *, deadline: float = CALL_SECONDS + 5) -> T:
        """Run `call` in a thread.  A thread that hangs is left behind at the deadline; it ends by
        the SDK's own timeout."""
        try:
            with anyio.fail_after(deadline):
                return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
        except (*_LOST, TimeoutError) as error:
            self._forget()
            raise LauncherUnavailable(f"{ENGINE_DOWN} ({_short(error)})", remedy=INSTALL) from None
        except docker.errors.DockerException as error:
            raise LauncherUnavailable(
                f"The container engine refused: {describe_error(error)}"
            ) from None

    def _forget(self) -> None:
        client, self._client, self._facts = self._client, None, None
        if client is not None:
            with contextlib.suppress(OSError):  # it is broken already
                client.close()

    async def find(self) -> Facts:
        return (await self._found())[1]

    async def _found(self) -> tuple[Any, Facts]:
        client, facts = self._client, self._facts
        if client is not None and facts is not None:
            try:
                with anyio.fail_after(FIND_SECONDS):
                    await anyio.to_thread.run_sync(partial(_ping, client), abandon_on_cancel=True)
                return client, facts
            except (*_LOST, TimeoutError, docker.errors.DockerException):
                self._forget()  # it may have been restarted, or another one may have taken over
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
                client, facts = await Attempt(
                    partial(_ask, candidate, left), partial(_connect, candidate), left
                ).wait()
            except _FAILED as error:
                tried.append(f"{candidate.address} (from {candidate.how}): {_short(error)}")
            else:
                self._client, self._facts = client, facts
                return client, facts
        where = "; ".join(tried) or "no engine's socket was found"
        raise LauncherUnavailable(f"No container engine answers: {where}.", remedy=INSTALL)

    async def image_id(self, tag: str) -> tuple[str, Mapping[str, str]] | None:
        client, _ = await self._found()

        def inspect() -> tuple[str, Mapping[str, str]] | None:
            try:
                image = client.images.get(tag)
            except docker.errors.ImageNotFound:
                return None
            return str(image.id), dict(image.labels)

        return await self._call(inspect)

    async def build(self, request: BuildRequest, on_line: Callable[[str], None]) -> None:
        client, _ = await self._found()
        stop = False

        def run() -> None:
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
            await self._call(run, deadline=4 * BUILD_SECONDS)
        finally:
            stop = True

    async def discard_image(self, id: str) -> None:
        client, _ = await self._found()

        def discard() -> None:
            # Used by a container, or gone: fine.  With another name it is somebody's.
            with contextlib.suppress(docker.errors.APIError):
                if not client.api.inspect_image(id)["RepoTags"]:
                    client.api.remove_image(id)

        await self._call(discard)

    async def export_image(self, id: str, file: Path) -> None:
        client, _ = await self._found()

        def write() -> None:
            with file.open("xb") as out:
                for piece in client.api.get_image(id):
                    out.write(piece)

        await self._call(write, deadline=BUILD_SECONDS)

    async def import_image(self, file: Path) -> None:
        client, _ = await self._found()

        def load() -> None:
            with file.open("rb") as data:
                for line in client.api.load_image(data, quiet=True):
                    if "error" in line:
                        raise docker.errors.DockerException(str(line["error"]))

        await self._call(load, deadline=BUILD_SECONDS)

    async def start(self, limits: Limits, placement: Placement, uid: int) -> Attached:
        client, facts = await self._found()
        if PODMAN in facts.components:
            file = await anyio.to_thread.run_sync(self._profile.path)
            placement = replace(placement, profile_file=file)

        async def one(placement: Placement) -> Attached:
            return await self._call(partial(_start, client, limits, placement, uid))

        return await starting.start(self._meetings, facts, placement, one)

    async def oom_killed(self, id: str) -> bool:
        client, _ = await self._found()

        def inspect() -> bool:
            try:
                state = client.api.inspect_container(id)["State"]
            except docker.errors.NotFound:
                return False
            return bool(state.get("OOMKilled"))

        return await self._call(inspect)

    async def remove(self, id: str) -> None:
        client, _ = await self._found()
        await self._call(partial(_remove, client, id))

    async def containers(self, label: str) -> Sequence[Found]:
        client, _ = await self._found()

        def listed() -> list[Found]:
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
        self._forget()
        await anyio.to_thread.run_sync(self._profile.remove)


def _short(error: BaseException) -> str:
    text = str(error)
    for known in ("Permission denied", "Connection refused", "No such file", "timed out"):
        if known.lower() in text.lower():
            return known.lower()
    return type(error).__name__ if len(text) > 200 or not text else text


def _ping(client: Any) -> None:
    client.api._result(client.api._get(client.api._url("/_ping"), timeout=FIND_SECONDS))


def _knock(address: str, seconds: float) -> None:
    """Connect to a local socket once: the SDK leaves its own open where nobody listens."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(seconds)
            knocking.connect(address.removeprefix("unix://"))


def _tls(candidate: hosts.Candidate) -> Any:
    """What the Docker CLI makes of the same folder: a client's certificate where there is one."""
    if candidate.tls is None:
        return False
    pair = [candidate.tls / name for name in ("cert.pem", "key.pem")]
    authority = candidate.tls / "ca.pem"
    return docker.tls.TLSConfig(
        client_cert=(str(pair[0]), str(pair[1])) if all(map(Path.is_file, pair)) else None,
        ca_cert=str(authority) if candidate.verify and authority.is_file() else None,
        verify=candidate.verify,
    )


def _asking(candidate: hosts.Candidate, seconds: float) -> Any:
    return docker.DockerClient(
        base_url=candidate.address, tls=_tls(candidate), version=ASKING_VERSION, timeout=seconds
    )


def _ask(candidate: hosts.Candidate, seconds: float) -> None:
    """Whether somebody is there: what every engine answers at once."""
    if candidate.address.startswith("ssh://"):
        raise ValueError(SSH)
    asking = _asking(candidate, seconds)
    try:
        _knock(candidate.address, seconds)
        url = asking.api._url("/_ping", versioned_api=False)
        asking.api._result(asking.api._get(url, timeout=seconds))
    finally:
        asking.close()


def _connect(candidate: hosts.Candidate) -> tuple[Any, Facts]:
    asking = _asking(candidate, CALL_SECONDS)
    try:
        # Without a version in its path, so that any engine answers; it names its own.
        version = asking.version(api_version=False)
    finally:
        asking.close()
    client = docker.DockerClient(
        base_url=candidate.address,
        tls=_tls(candidate),
        version=version["ApiVersion"],
        timeout=CALL_SECONDS,
        max_pool_size=16,
    )
    try:
        info = client.info()
    except BaseException:
        client.close()
        raise
    names = [entry.split(",")[0].removeprefix("name=") for entry in info["SecurityOptions"] or []]
    components = {entry["Name"]: str(entry["Version"]) for entry in version.get("Components") or []}
    return client, Facts(
        address=candidate.address,
        how=candidate.how,
        version=str(version.get("Version", "")),
        components=components,
        security=names,
        cgroup_version=str(info.get("CgroupVersion", "1")),
        runtimes=sorted(info.get("Runtimes") or {}),
    )


def _start(client: Any, limits: Limits, placement: Placement, uid: int) -> Attached:
    """Create, attach, start.  Attached before the start, so that no byte is missed and the end of
    this process is seen from the first moment."""
    podman = placement.profile_file is not None
    container = client.containers.create(
        **hardening.options(limits, placement, uid),
        ulimits=[
            Ulimit(name=name, soft=value, hard=value)
            for name, value in hardening.ulimits(limits, podman=podman).items()
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
    except BaseException:
        if stream is not None:
            _release(getattr(stream, "_sock", stream), stream)
        _remove(client, container.id)
        raise
    connection = getattr(stream, "_sock", stream)
    return Attached(
        id=container.id, connection=connection, release=partial(_release, connection, stream)
    )


def _release(connection: Any, stream: Any) -> None:
    """Close an attached socket.  The SDK's response holds a file object over it, and it stays
    open until that is closed as well."""
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
