"""The peers, each driven as its own documentation does it, in an environment of their own.

`python peer_process.py NAME IMAGE FOLDER` takes orders as lines of JSON and answers each with one,
in which `seconds` are measured here, beside the peer's own client, so that no pipe is in them.
Imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import docker

LIMITS: dict[str, Any] = {"network_mode": "none", "mem_limit": "1g", "nano_cpus": 1_000_000_000}
WAIT = 60.0


class DockerExec:
    """A container that sleeps, and `docker exec python -c` for each execution."""

    def __init__(self, image: str, folder: Path) -> None:
        self.client = docker.from_env(timeout=120)
        self.image, self.folder = image, folder
        self.container: Any = None

    def open(self) -> None:
        self.container = self.client.containers.run(
            self.image, ["sleep", "86400"], detach=True, user="root", **LIMITS
        )

    def execute(self, code: str) -> str:
        done = self.container.exec_run(["/opt/lap/venv/bin/python3", "-c", code])
        return str(done.output.decode())

    def put(self, path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(path, path.name)
        self.container.put_archive("/tmp", buffer.getvalue())

    def get(self, name: str) -> int:
        chunks, _ = self.container.get_archive(f"/tmp/{name}")
        return sum(len(chunk) for chunk in chunks)

    def close(self) -> None:
        if self.container is not None:
            self.container.remove(force=True)
        self.client.close()

    def id(self) -> str:
        return str(self.container.id)


class LlmSandbox(DockerExec):
    """`llm-sandbox`: one session, `run` for each execution; nothing is installed at its start."""

    def open(self) -> None:
        from llm_sandbox import SandboxSession

        self.session = SandboxSession(
            lang="python",
            image=self.image,
            client=self.client,
            skip_environment_setup=True,
            runtime_configs={"user": "root", **LIMITS},
        )
        self.session.open()

    def execute(self, code: str) -> str:
        return str(self.session.run(code).stdout)

    def put(self, path: Path) -> None:
        self.session.copy_to_runtime(str(path), f"/sandbox/{path.name}")

    def get(self, name: str) -> int:
        target = self.folder / f"back-{name}"
        self.session.copy_from_runtime(f"/sandbox/{name}", str(target))
        return sum(p.stat().st_size for p in (target, *target.glob("*")) if p.is_file())

    def close(self) -> None:
        self.session.close()
        self.client.close()

    def id(self) -> str:
        return str(self.session.container.id)


class Ipykernel(DockerExec):
    """ipykernel in a container, over ZeroMQ's local sockets in a shared folder, driven by
    `jupyter_client`.  The packages it needs are mounted, so that the image is the same."""

    def open(self) -> None:
        from jupyter_client import BlockingKernelClient
        from jupyter_client.connect import write_connection_file

        place = self.folder / f"kernel-{os.getpid()}-{time.monotonic_ns()}"
        place.mkdir()
        file, _ = write_connection_file(
            str(place / "c.json"), ip=str(place / "s"), transport="ipc", key=b"benchmark"
        )
        packages = str(self.folder / "kernel-packages")
        self.container = self.client.containers.run(
            self.image,
            ["/opt/lap/venv/bin/python3", "-m", "ipykernel_launcher", "-f", file],
            detach=True,
            user="root",
            environment={"PYTHONPATH": packages, "HOME": "/tmp"},
            volumes={
                str(place): {"bind": str(place), "mode": "rw"},
                packages: {"bind": packages, "mode": "ro"},
            },
            **LIMITS,
        )
        self.kernel = BlockingKernelClient(connection_file=file)
        self.kernel.load_connection_file()
        self.kernel.start_channels(
            hb=False
        )  # a kernel that is still starting misses its first beats
        self.kernel.wait_for_ready(timeout=WAIT)

    def execute(self, code: str) -> str:
        said: list[str] = []

        def hook(message: Any) -> None:
            said.append(str(message["content"].get("text", "")))

        self.kernel.execute_interactive(code, output_hook=hook, timeout=WAIT)
        return "".join(said)

    def interrupt(self, code: str) -> float:
        """Seconds from the signal to the answer."""
        sent = [0.0]

        def signal() -> None:
            time.sleep(0.5)
            sent[0] = time.perf_counter()
            self.container.kill("SIGINT")

        thread = threading.Thread(target=signal)
        thread.start()
        self.kernel.execute_interactive(code, output_hook=lambda message: None, timeout=WAIT)
        ended = time.perf_counter()
        thread.join()
        return ended - sent[0]

    def close(self) -> None:
        super().close()
        with contextlib.suppress(AttributeError):
            self.kernel.stop_channels()


PEERS = {"docker exec": DockerExec, "llm-sandbox": LlmSandbox, "ipykernel": Ipykernel}


def serve(peer: Any) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            act, arguments = order["do"], order.get("arguments", [])
            if act in ("put", "get"):
                arguments = [Path(arguments[0])] if act == "put" else arguments
            seconds = []
            for _ in range(order.get("n", 1)):
                began = time.perf_counter()
                answer["value"] = getattr(peer, act)(*arguments)
                seconds.append(time.perf_counter() - began)
            answer["seconds"] = seconds
        except Exception as error:  # told to whoever measures
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    made = PEERS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    try:
        serve(made)
    finally:
        made.close()
