"""Git is asked in a repository that an attacker made, and files change while they are read."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from lap_mcp.control.local_files import LocalFiles
from lap_mcp.errors import Invalid, NotFound

pytestmark = pytest.mark.anyio

RUNS = (
    "core.fsmonitor",
    "core.sshCommand",
    "core.editor",
    "core.pager",
    "core.askPass",
    "core.gitProxy",
    "core.alternateRefsCommand",
    "credential.helper",
    "diff.external",
    "filter.x.clean",
    "filter.x.smudge",
    "filter.x.process",
    "merge.x.driver",
    "gpg.program",
    "sequence.editor",
    "uploadpack.packObjectsHook",
    "remote.origin.uploadpack",
    "remote.origin.vcs",
    "pager.check-ignore",
    "trace2.normalTarget",
)
"""Keys whose value some command of git runs."""


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        self.ran = folder / "ran"
        self.environ = {"HOME": str(folder), "PATH": os.environ["PATH"]}
        self.git("init", "-q")
        (self.folder / "data.csv").write_text("a,b\n")

    def git(self, *arguments: str) -> None:
        command = ["git", "-C", str(self.folder), *arguments]
        subprocess.run(command, check=True, capture_output=True, env=self.environ)

    async def read(self, path: str = "data.csv", deadline: float = 5.0) -> bytes:
        make = partial(
            LocalFiles, [self.folder], environ=self.environ, git_deadline=deadline, max_bytes=1000
        )
        files = await anyio.to_thread.run_sync(make)
        return (await files.read(path))[1]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


async def test_no_key_of_its_configuration_and_no_hook_runs(repository: Repository) -> None:
    program = repository.folder / "evil.sh"
    program.write_text(f"#!/bin/sh\necho $0 >> {repository.ran}\n")
    program.chmod(0o755)
    for key in RUNS:
        repository.git("config", key, str(program))
    repository.git("config", "alias.check-ignore", f"!{program}")
    repository.git("config", "core.repositoryFormatVersion", "1")
    repository.git("config", "extensions.partialClone", "origin")
    repository.git("config", "remote.origin.promisor", "true")
    repository.git("config", "remote.origin.url", f"ext::{program}")
    (repository.folder / ".gitattributes").write_text("* filter=x diff=x merge=x\n")
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (repository.folder / ".git/hooks" / hook).parent.mkdir(exist_ok=True)
        (repository.folder / ".git/hooks" / hook).write_text(program.read_text())
        (repository.folder / ".git/hooks" / hook).chmod(0o755)
    (repository.folder / "git").write_text(program.read_text())
    (repository.folder / "git").chmod(0o755)
    assert await repository.read() == b"a,b\n"
    assert not repository.ran.exists(), repository.ran.read_text()


async def test_an_index_without_its_objects_fetches_nothing(repository: Repository) -> None:
    """Rules of a file that stands in the index only would be read from an object: one that is
    missing is fetched, by the program that the configuration names."""
    repository.git("config", "user.email", "x@example.com")
    repository.git("config", "user.name", "x")
    (repository.folder / ".gitignore").write_text("*.key\n")
    repository.git("add", ".gitignore")
    repository.git("update-index", "--skip-worktree", ".gitignore")
    (repository.folder / ".gitignore").unlink()
    for path in (repository.folder / ".git/objects").glob("??/*"):
        path.chmod(0o600)
        path.unlink()
    repository.git("config", "core.repositoryFormatVersion", "1")
    repository.git("config", "extensions.partialClone", "origin")
    repository.git("config", "remote.origin.url", f"ext::touch {repository.ran}")
    repository.git("config", "protocol.ext.allow", "always")
    assert await repository.read() == b"a,b\n"
    assert not repository.ran.exists()


@pytest.mark.parametrize("place", ["rules", "exclude", "include", "configured"])
async def test_a_pipe_where_git_looks_refuses_the_file_in_time(
    repository: Repository, place: str
) -> None:
    """And leaves no process behind."""
    pipe = repository.folder / "pipe"
    if place == "rules":
        pipe = repository.folder / ".gitignore"
    elif place == "exclude":
        pipe = repository.folder / ".git/info/exclude"
        pipe.parent.mkdir(exist_ok=True)
        pipe.unlink(missing_ok=True)
    elif place == "include":
        repository.git("config", "include.path", str(pipe))
    else:
        repository.git("config", "core.excludesFile", str(pipe))
    os.mkfifo(pipe)
    with anyio.fail_after(20):
        with pytest.raises(Invalid, match="git did not say within"):
            await repository.read(deadline=0.5)
    # Nobody reads from the pipe any more.
    with pytest.raises(OSError, match="No such device or address"):
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder to another user")
async def test_git_that_quotes_a_name_is_not_taken_at_that_word(tmp_path: Path) -> None:
    """A repository of somebody else is refused by git with its path, which may say anything."""
    outer = tmp_path / "not a git repository"
    outer.mkdir()
    repository = Repository(outer)
    os.chown(repository.folder, 65534, 65534)
    os.chown(repository.folder / ".git", 65534, 65534)
    with pytest.raises(Invalid, match="git cannot say"):
        await repository.read()


async def test_a_file_that_is_exchanged_for_a_link_again_and_again_never_leaks(
    repository: Repository,
) -> None:
    secret = repository.folder.parent / "secret"
    secret.write_text("a private key")
    file, spare = repository.folder / "data.csv", repository.folder / "spare"
    ended = anyio.Event()

    def exchange() -> None:
        for _ in range(50):
            spare.symlink_to(secret)
            spare.replace(file)
            spare.write_text("a,b\n")
            spare.replace(file)

    async def attack() -> None:
        while not ended.is_set():
            await anyio.to_thread.run_sync(exchange)

    # Asking git would only slow the race down.
    (repository.folder / ".git").rename(repository.folder.parent / "aside")
    async with anyio.create_task_group() as group:
        group.start_soon(attack)
        for _ in range(300):
            try:
                assert await repository.read() in (b"a,b\n", b"")
            except (Invalid, NotFound):
                continue
        ended.set()


@pytest.mark.parametrize(
    "path", ["a" * 300, "sub/" * 1000 + "x", "/" + "x" * 4000, "%2e%2e/x", "-x"]
)
async def test_an_impossible_path_is_refused_in_words(repository: Repository, path: str) -> None:
    with pytest.raises((Invalid, NotFound)) as caught:
        await repository.read(path)
    assert len(str(caught.value)) < 600
