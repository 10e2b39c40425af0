"""The engine, asked behind the product's back: containers of one `LAP_HOME`, the image's id."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import anyio.to_thread
import docker
from docker.errors import DockerException
from lap_sandbox.base import LauncherConfig
from lap_sandbox.docker_engine import DockerLauncher

IMAGE = LauncherConfig().image


def count_of(home: Path) -> int:
    """How many there are, running or not; 0 where no engine answers."""
    instance = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    try:
        client = docker.from_env(timeout=30)
    except DockerException:
        return 0
    try:
        label = f"lap.instance={instance}"
        return len(client.api.containers(all=True, filters={"label": label}))
    finally:
        client.close()


def docker_left(instance: str) -> int:
    """Containers of a launcher's instance, running or not.  Raises: DockerException."""
    client = docker.from_env(timeout=30)
    try:
        label = f"lap.instance={instance}"
        return len(client.api.containers(all=True, filters={"label": label}))
    finally:
        client.close()


def engine_version() -> str:
    """Of the Docker Engine that answers; empty where none does."""
    try:
        client = docker.from_env(timeout=10)
    except DockerException:
        return ""
    try:
        return str(client.version()["Version"])
    finally:
        client.close()


async def current_image() -> str:
    """Build the sandbox image where it is missing or old; its id.

    Raises: LauncherUnavailable.
    """
    launcher = DockerLauncher(LauncherConfig(warm=0), environ=os.environ, home=Path.home())
    try:
        await launcher.prepare()
        return await anyio.to_thread.run_sync(_image_id)
    finally:
        await launcher.aclose()


def _image_id() -> str:
    client = docker.from_env(timeout=30)
    try:
        return str(client.images.get(IMAGE).id)
    finally:
        client.close()
