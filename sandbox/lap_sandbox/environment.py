"""What a sandbox without an engine has for an image: a virtual environment below LAP_HOME, made of
the image's own requirements.

`environments/FLAVOR-RANDOM/` has the layout of the image's /opt/lap and a file that tells what it
is made of; it is renamed into place when it is complete, and never changed afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lap_sandbox import bubblewrap_command, hardening, image_build
from lap_sandbox.bubblewrap_host import Host
from lap_sandbox.engine import BuildFailed, BuildRequest

MARK = "environment.json"
UNFINISHED = ".building-"
QUIET_SECONDS = 600.0
"""Without a line of output."""
FONTS = "import matplotlib.font_manager"
ETC = {
    "passwd": "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
"""All of /etc."""
_HANDED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "NETRC")
_HANDED_ON_TO_PIP = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    id: str
    folder: Path
    labels: Mapping[str, str]
    python: str
    created: float


class Environments:
    """Those in one folder.  Every method blocks."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ

    def get(self, id: str) -> Environment | None:
        folder = self._folder / id
        try:
            mark = json.loads((folder / MARK).read_text("utf-8"))
            return Environment(
                id=id,
                folder=folder,
                labels=mark["labels"],
                python=mark["python"],
                created=float(mark["created"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def newest(self, flavor: str, host: Host) -> Environment | None:
        """The latest for this interpreter: a virtual environment does not outlive that."""
        with contextlib.suppress(FileNotFoundError):
            names = [path.name for path in self._folder.iterdir()]
            found = [self.get(name) for name in names if name.startswith(f"{flavor}-")]
            usable = [e for e in found if e is not None and e.python == host.interpreter.version]
            return max(usable, key=lambda each: each.created, default=None)
        return None

    def remove(self, id: str) -> None:
        shutil.rmtree(self._folder / id, ignore_errors=True)

    def build(
        self, request: BuildRequest, host: Host, on_line: OnLine, stopped: Callable[[], bool]
    ) -> None:
        """
        Raises:
            BuildFailed
        """
        with self._alone():
            for left in self._folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
            flavor = request.labels[image_build.FLAVOR_LABEL]
            name = f"{flavor}-{secrets.token_hex(6)}"
            folder = self._folder / f"{UNFINISHED}{name}"
            folder.mkdir(mode=0o755)
            try:
                _Builder(folder, host, self._environ, on_line, stopped).build(request, flavor)
                mark = {"labels": dict(request.labels), "python": host.interpreter.version}
                mark |= {"created": time.time()}  # type: ignore[dict-item]
                (folder / MARK).write_text(json.dumps(mark))
                folder.rename(self._folder / name)
            except (OSError, subprocess.SubprocessError) as error:
                raise BuildFailed(str(error)) from None
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One build at a time, of all processes that share the folder."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            deadline = time.monotonic() + QUIET_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise BuildFailed("another process is building and does not end") from None
                    time.sleep(0.2)
            yield


class _Builder:
    def __init__(
        self,
        folder: Path,
        host: Host,
        environ: Mapping[str, str],
        on_line: OnLine,
        stopped: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._host = host
        self._environ = environ
        self._on_line = on_line
        self._stopped = stopped

    def build(self, request: BuildRequest, flavor: str) -> None:
        self._on_line("Step 1/4 : a virtual environment")
        given = self._unpack(request.context)
        venv = self._make_venv()
        self._on_line("Step 2/4 : the packages")
        self._install(venv, given / f"requirements-{flavor}.txt", given / "extra-ca.pem")
        self._tidy(venv)
        shutil.rmtree(given)
        self._let_read()
        self._on_line("Step 3/4 : compiling")
        self._inside("-m", "compileall", "-q", "/opt/lap/venv/lib", "/opt/lap/lib")
        self._on_line("Step 4/4 : finding fonts")
        self._inside("-c", FONTS)

    def _unpack(self, context: bytes) -> Path:
        """The runner to its place, the rest to where it is returned."""
        given = self._folder / "given"
        given.mkdir()
        with tarfile.open(fileobj=io.BytesIO(context)) as archive:
            for member in archive:  # our own; `extractall` has no filter before Python 3.11.4
                target = given / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None
                target.write_bytes(source.read())
        shutil.move(given / "lib", self._folder / "lib")
        entry = image_build.read("confined/enter.py")
        (self._folder / "enter.py").write_bytes(entry)
        (self._folder / "mpl").mkdir(mode=0o755)
        (self._folder / "etc").mkdir(mode=0o755)
        for name, text in ETC.items():
            (self._folder / "etc" / name).write_text(text)
        return given

    def _make_venv(self) -> Path:
        """By hand: what the module `venv` makes names folders of this machine, and needs a package
        of its own on some systems."""
        interpreter = self._host.interpreter.executable
        venv = self._folder / "venv"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        (venv / "lib" / f"python{version}" / "site-packages").mkdir(parents=True)
        (venv / "bin").mkdir()
        (venv / "bin" / "python3").symlink_to(interpreter)
        (venv / "bin" / "python").symlink_to("python3")
        lines = [f"home = {interpreter.parent}", "include-system-site-packages = false"]
        (venv / "pyvenv.cfg").write_text("\n".join([*lines, f"version = {version}", ""]))
        return venv

    def _install(self, venv: Path, requirements: Path, certificates: Path) -> None:
        environ = {
            name: value
            for name, value in self._environ.items()
            if name in _HANDED_ON
            or name.startswith(_HANDED_ON_TO_PIP)
            or name.upper().endswith("_PROXY")
        }
        if certificates.stat().st_size:
            environ["PIP_CERT"] = environ["SSL_CERT_FILE"] = str(certificates)
        self._run([*_installer(venv, self._environ), "-r", str(requirements)], environ)

    def _tidy(self, venv: Path) -> None:
        """No tests of packages, and no scripts: those begin with a path of this machine."""
        for script in (venv / "bin").iterdir():
            if script.name not in ("python", "python3"):
                script.unlink()
        tests = [path for path in (venv / "lib").rglob("tests") if path.is_dir()]
        for folder in tests:
            shutil.rmtree(folder, ignore_errors=True)

    def _let_read(self) -> None:
        """Sandboxes have uids of their own; LAP_HOME above this stays closed."""
        for path in (self._folder, *self._folder.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode & 0o7777
                path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))

    def _inside(self, *arguments: str) -> None:
        """Run the new environment's own Python on it: confined, as all code of packages is."""
        environ = {**hardening.ENVIRONMENT, "MPLCONFIGDIR": "/opt/lap/mpl"}
        environ.pop("PYTHONDONTWRITEBYTECODE")
        words = bubblewrap_command.frame(self._host, environ, os.getuid() or 65534)
        words += ["--bind", str(self._folder), "/opt/lap", "--tmpfs", "/tmp", "--remount-ro", "/"]
        self._run([*words, "--", bubblewrap_command.PYTHON, "-I", *arguments], {})

    def _run(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            umask=0o022,
            cwd="/",
        )
        assert process.stdout is not None
        last: list[str] = []
        with process:
            try:
                for line in self._lines(process.stdout.fileno()):
                    last = [*last[-5:], line.strip()]
                    self._on_line(line)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise BuildFailed(" ".join(last)[-1500:] or f"{arguments[0]} failed")

    def _lines(self, fd: int) -> Iterator[str]:
        held = b""
        quiet = 0.0
        while True:
            if self._stopped():
                raise BuildFailed("it was given up")
            if not select.select([fd], [], [], 1.0)[0]:
                quiet += 1.0
                if quiet > QUIET_SECONDS:
                    raise BuildFailed("it does not go on")
                continue
            quiet = 0.0
            data = os.read(fd, 65536)
            *lines, held = (held + data).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
            if not data:
                return


def _installer(venv: Path, environ: Mapping[str, str]) -> list[str]:
    """The command that installs into `venv`, which has no installer in it."""
    python = str(venv / "bin" / "python3")
    pip = _pip()
    if pip:
        options = ["--disable-pip-version-check", "--no-input", "--no-compile"]
        options += ["--progress-bar=off", "--only-binary", ":all:"]
        return [sys.executable, "-I", *pip, "--python", python, "install", *options]
    uv = shutil.which("uv", path=environ.get("PATH") or os.defpath)
    if uv is not None:
        return [uv, "pip", "install", "--python", python, "--only-binary", ":all:"]
    raise BuildFailed(f"{sys.executable} has no pip, and there is no uv; install one of them")


def _pip() -> list[str]:
    """The arguments for running pip: ours, else the one that came with Python."""
    if importlib.util.find_spec("pip") is not None:
        return ["-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")
    if ensurepip is None or ensurepip.origin is None:
        return []
    wheels = sorted(Path(ensurepip.origin).parent.glob("_bundled/pip-*.whl"))
    return [f"{wheels[-1]}/pip"] if wheels else []
