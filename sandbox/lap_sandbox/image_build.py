"""The sandbox image: what it is made of, a hash of that, the builder's context and its progress.
Talks to no engine."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from lap_sandbox.base import Preparation
from lap_sandbox.engine import BuildRequest

HASH_LABEL = "lap.inputs"
FLAVOR_LABEL = "lap.flavor"
FLAVORS = ("core", "full")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FTP_PROXY")
_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_LIBRARY = "lib/lap_sandbox"
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_WORK = re.compile(r"(Collecting|Downloading|Installing|Setting up|Unpacking)\b\s*(\S*)")


def flavor_of(tag: str) -> str | None:
    """`core` or `full`; `None` for an image of the operator's own."""
    name, _, version = tag.rpartition(":")
    return version if name == "lap-sandbox" and version in FLAVORS else None


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_file() and not entry.name.endswith(".pyc"):
            yield prefix + entry.name, entry.read_bytes()


def read(name: str) -> bytes:
    """A file of this package."""
    return resources.files("lap_sandbox").joinpath(name).read_bytes()


def inputs() -> dict[str, bytes]:
    """Every file that goes into the image, by its name in the builder's context."""
    package = resources.files("lap_sandbox")
    found = dict(_files(package / "image", ""))
    found |= _files(package / "runner", f"{_LIBRARY}/runner/")
    found[f"{_LIBRARY}/__init__.py"] = (package / "__init__.py").read_bytes()
    return found


def content_hash(flavor: str) -> str:
    """Tells an outdated image from a current one.  Proxies and certificates are not part of it."""
    digest = hashlib.sha256(flavor.encode())
    for name, data in sorted(inputs().items()):
        digest.update(f"\0{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:32]


def _certificates(environ: Mapping[str, str]) -> bytes:
    """The certificates that this machine was told to trust, for the builder stage only."""
    for name in _CERTIFICATES:
        value = environ.get(name)
        if value:
            try:
                return Path(value).read_bytes()
            except OSError:
                continue
    return b""


def request(tag: str, flavor: str, environ: Mapping[str, str]) -> BuildRequest:
    """What to ask an engine for."""
    files = inputs() | {"extra-ca.pem": _certificates(environ)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in sorted(files.items()):
            # Nothing of this machine or moment, so that the engine's cache holds.
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    arguments = {"FLAVOR": flavor}
    for name in _PROXIES:
        for spelling in (name, name.lower()):
            if environ.get(spelling):
                arguments[spelling] = environ[spelling]
    if environ.get("PIP_INDEX_URL"):
        arguments["PIP_INDEX_URL"] = environ["PIP_INDEX_URL"]
    labels = {HASH_LABEL: content_hash(flavor), FLAVOR_LABEL: flavor}
    return BuildRequest(tag=tag, context=buffer.getvalue(), arguments=arguments, labels=labels)


@dataclass(slots=True)
class Progress:
    """Turns the builder's lines into a `Preparation`."""

    step: int = 0
    steps: int = 0
    doing: str = "starting"

    def line(self, line: str) -> None:
        found = _STEP.match(line)
        if found:
            self.step, self.steps = int(found[1]), int(found[2])
            self.doing = " ".join(found[3].split())[:60]
            return
        work = _WORK.search(line)
        if work:
            package = re.split(r"[=<>~!\[(]", work[2])[0]
            self.doing = f"{work[1].lower()} {package}".strip()[:60]

    def preparation(self, seconds: float) -> Preparation:
        where = f"step {self.step} of {self.steps}, " if self.steps else ""
        return Preparation(
            ready=False,
            words=f"sandbox image: {where}{self.doing} ({seconds:.0f} s)",
            fraction=(self.step - 1) / self.steps if self.steps else 0.0,
        )
