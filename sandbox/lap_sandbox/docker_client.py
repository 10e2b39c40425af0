"""A client of the Docker Engine's SDK for one address; and what an engine says of itself."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import docker

from lap_sandbox import hosts
from lap_sandbox.engine import Facts
from lap_sandbox.preflight import gvisor, unlimited
from lap_sandbox.unix_transport import UnixAdapter

FIND_SECONDS = 0.8
"""For one question whether an engine answers.  Asking again after the one in use was lost, and
after a warm sandbox did not answer, stays under two seconds."""
CALL_SECONDS = 20
KEPT = 16
"""Connections to an engine that are kept for later."""
ASKING_VERSION = "1.44"
SSH = "ssh:// is not supported; forward its socket (ssh -L) and set DOCKER_HOST to that"


def ping(client: Any) -> None:
    client.api._result(client.api._get(client.api._url("/_ping"), timeout=FIND_SECONDS))


def was_short_of_memory(client: Any, id: str) -> bool:
    """As the engine's latest events say, which it keeps where the container is removed already."""
    asked = {
        "since": "0",
        "until": f"{time.time():.9f}",  # those that were, without waiting for more
        "filters": json.dumps({"container": [id], "event": ["oom"]}),
    }
    with contextlib.suppress(OSError, docker.errors.DockerException):
        url = client.api._url("/events")
        told = client.api._get(url, params=asked, timeout=FIND_SECONDS)
        return bool(client.api._result(told).strip())
    return False


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


def _client(candidate: hosts.Candidate, version: str, seconds: float) -> Any:
    client = docker.DockerClient(
        base_url=candidate.address,
        tls=_tls(candidate),
        version=version,
        timeout=seconds,
        max_pool_size=KEPT,
    )
    if candidate.address.startswith("unix://"):
        path = candidate.address.removeprefix("unix://")
        client.api.mount("http+docker://", UnixAdapter(path, seconds, KEPT))
    return client


def ask(candidate: hosts.Candidate, seconds: float) -> None:
    """Whether somebody is there: what every engine answers at once."""
    if candidate.address.startswith("ssh://"):
        raise ValueError(SSH)
    asking = _client(candidate, ASKING_VERSION, seconds)
    try:
        url = asking.api._url("/_ping", versioned_api=False)
        asking.api._result(asking.api._get(url, timeout=seconds))
    finally:
        asking.close()


def connect(candidate: hosts.Candidate) -> tuple[Any, Facts]:
    asking = _client(candidate, ASKING_VERSION, CALL_SECONDS)
    try:
        # Without a version in its path, so that any engine answers; it names its own.
        version = asking.version(api_version=False)
    finally:
        asking.close()
    client = _client(candidate, version["ApiVersion"], CALL_SECONDS)
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
        gvisor=gvisor(info),
        default_runtime=str(info.get("DefaultRuntime", "")),
        unlimited=unlimited(info),
    )
