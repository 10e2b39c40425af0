"""Containers of one `LAP_HOME`, counted by their label."""

from __future__ import annotations

import hashlib
from pathlib import Path

import docker
from docker.errors import DockerException


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
