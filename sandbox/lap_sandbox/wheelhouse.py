"""A folder of wheels, unpacked once so that sandboxes can import from it read-only.

Unpacked on this side, because nothing in a sandbox's writable folders may be executed, and an
extension module is: from a folder that is bound it can be loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lap_sandbox.base import MiB, Mount
from lap_sandbox.errors import LauncherUnavailable

TARGET = "/mnt/wheelhouse"
MOST = 4096 * MiB
"""Unpacked bytes of all wheels together."""
_LIBRARY = re.compile(r"^[^/]+\.data/(purelib|platlib)/")
_OTHER_DATA = re.compile(r"^[^/]+\.data/")


def mount(source: Path, cache: Path) -> Mount:
    """Unpack what is new or changed in `source` into `cache`; where it is to be seen.

    Raises:
        LauncherUnavailable: no such folder, no wheel in it, or one that is broken.
    """
    try:
        wheels = sorted(path for path in source.glob("*.whl") if path.is_file())
    except OSError:
        wheels = []
    if not wheels:
        raise LauncherUnavailable(
            f"`wheelhouse` of `[sandbox]` is {source}, and there is no wheel in it.",
            remedy="Fill it: `pip download --only-binary :all: --dest FOLDER NAME`.",
        )
    folder = cache / _name(wheels)
    if not folder.is_dir():
        try:
            _unpack_all(wheels, folder)
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise LauncherUnavailable(
                f"The wheelhouse {source} cannot be unpacked: {error}.",
                remedy="Remove that wheel, or download it again.",
            ) from None
    return Mount(source=folder, target=TARGET)


def _name(wheels: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in wheels:
        state = path.stat()
        digest.update(f"{path.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:24]


def _unpack_all(wheels: list[Path], folder: Path) -> None:
    unfinished = folder.parent / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o755)
    left = MOST
    try:
        for wheel in wheels:
            left = _unpack(wheel, unfinished / wheel.stem, left)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unpack(wheel: Path, target: Path, left: int) -> int:
    with zipfile.ZipFile(wheel) as archive:
        for member, name in _members(archive):
            left -= member.file_size
            if left < 0:
                raise ValueError(f"{wheel.name} is too large: more than {MOST >> 20} MiB in all")
            path = target.joinpath(*name.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("xb") as out:
                shutil.copyfileobj(source, out)
    return left


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """What is imported, and where it goes.  Scripts and headers are left out.

    Raises:
        ValueError: a name that leads out.
    """
    for member in archive.infolist():
        if member.is_dir():
            continue
        name = PurePosixPath(_LIBRARY.sub("", member.filename))
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
            raise ValueError(f"{archive.filename} has a name that leads out: {member.filename!r}")
        if not _OTHER_DATA.match(str(name)):
            yield member, name
