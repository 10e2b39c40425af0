"""Where a Docker Engine may be listening, from the environment mapping and the CLI's contexts.
Connects to nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Candidate:
    address: str
    """`unix:///var/run/docker.sock`, `tcp://127.0.0.1:2375`"""
    how: str
    """Why this one, in words."""
    tls: Path | None = None
    """A folder with `ca.pem`, `cert.pem`, `key.pem`."""
    verify: bool = True


def _docker_config(environ: Mapping[str, str], home: Path) -> Path:
    return Path(environ.get("DOCKER_CONFIG") or home / ".docker")


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _context(environ: Mapping[str, str], home: Path) -> Candidate | None:
    """The endpoint of the Docker CLI's current context, where it is not `default`."""
    config = _docker_config(environ, home)
    name = environ.get("DOCKER_CONTEXT") or _read_json(config / "config.json").get("currentContext")
    if not isinstance(name, str) or name in ("", "default"):
        return None
    digest = hashlib.sha256(name.encode()).hexdigest()
    endpoints = _read_json(config / "contexts" / "meta" / digest / "meta.json").get("Endpoints")
    docker = endpoints.get("docker") if isinstance(endpoints, dict) else None
    address = docker.get("Host") if isinstance(docker, dict) else None
    if not isinstance(address, str) or not address:
        return None
    tls = config / "contexts" / "tls" / digest / "docker"
    skip = isinstance(docker, dict) and docker.get("SkipTLSVerify") is True
    how = f"the Docker CLI's context `{name}`"
    return Candidate(address, how, tls if tls.is_dir() else None, not skip)


def _sockets(environ: Mapping[str, str], home: Path) -> list[Path]:
    """Where engines put their sockets: Docker, rootless Docker, Docker Desktop, Colima, OrbStack,
    Rancher Desktop, Podman."""
    places = [Path("/var/run/docker.sock")]
    # Not set in what a harness starts, or under sudo; the folder is there all the same.
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    places.append(Path(runtime) / "docker.sock")
    places += [
        home / ".docker/run/docker.sock",
        home / ".docker/desktop/docker.sock",
        home / ".colima/default/docker.sock",
        home / ".config/colima/default/docker.sock",
        home / ".orbstack/run/docker.sock",
        home / ".rd/docker.sock",
    ]
    places += [
        Path(runtime) / "podman/podman.sock",
        home / ".local/share/containers/podman/machine/podman.sock",
        Path("/run/podman/podman.sock"),
    ]
    return list(dict.fromkeys(places))


def candidates(environ: Mapping[str, str], home: Path) -> list[Candidate]:
    """Addresses to try, in order.  An explicit choice is the only one, as for the Docker CLI."""
    host = environ.get("DOCKER_HOST")
    if host:
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
        folder = environ.get("DOCKER_CERT_PATH")
        tls = Path(folder) if folder else _docker_config(environ, home) if verify else None
        return [Candidate(host, "DOCKER_HOST", tls, verify)]
    chosen = _context(environ, home)
    if chosen is not None:
        return [chosen]
    found = [place for place in _sockets(environ, home) if place.is_socket()]
    return [Candidate(f"unix://{place}", f"the socket {place}") for place in found]
