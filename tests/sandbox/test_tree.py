"""The supervisor's file access, against a folder that hostile code shares with it."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from lap_sandbox.runner import files
from lap_sandbox.runner.files import Refused, Tree

SECRET = b"not yours"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def read(tree: Tree, path: str) -> bytes:
    fd, _ = tree.open_read(path)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def put(tree: Tree, path: str, data: bytes) -> None:
    upload = tree.begin_put(path, 1)
    upload.write(data)
    upload.finish()


def make_link(root: Path) -> None:
    (root / "x").symlink_to("../secret")


def make_dangling(root: Path) -> None:
    (root / "x").symlink_to("nowhere")


def make_fifo(root: Path) -> None:
    os.mkfifo(root / "x")


def make_folder(root: Path) -> None:
    (root / "x").mkdir()


def make_socket(root: Path) -> None:
    here = Path.cwd()
    os.chdir(root)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")
    finally:
        os.chdir(here)


def make_proc_link(root: Path) -> None:
    (root / "x").symlink_to("/proc/self/environ")


@pytest.mark.parametrize(
    "make", [make_link, make_dangling, make_fifo, make_folder, make_socket, make_proc_link]
)
def test_only_regular_files_are_read_and_nothing_hangs(root: Path, make: object) -> None:
    make(root)  # type: ignore[operator]
    with pytest.raises(Refused) as refused:
        Tree(str(root)).open_read("x")
    assert refused.value.reason == "path"


def test_a_link_on_the_way_is_refused_for_reading_writing_and_deleting(root: Path) -> None:
    (root / "out").symlink_to("../outside")
    (root.parent / "outside" / "file").write_bytes(SECRET)
    tree = Tree(str(root))
    for act in (
        lambda: tree.open_read("out/file"),
        lambda: tree.begin_put("out/new", 1),
        lambda: tree.delete("out/file"),
    ):
        with pytest.raises(Refused):
            act()
    assert [p.name for p in (root.parent / "outside").iterdir()] == ["file"]


def test_putting_over_a_link_replaces_the_link_and_not_its_target(root: Path) -> None:
    make_link(root)
    put(Tree(str(root)), "x", b"new")
    assert (root / "x").read_bytes() == b"new"
    assert not (root / "x").is_symlink()
    assert (root.parent / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "", ".", "a\0b"])
def test_paths_that_lead_out_are_refused_even_if_the_host_let_them_through(
    root: Path, path: str
) -> None:
    tree = Tree(str(root))
    with pytest.raises(Refused):
        tree.open_read(path)
    with pytest.raises(Refused):
        tree.begin_put(path, 1)
    with pytest.raises(Refused):
        tree.delete(path)


def test_an_upload_that_is_given_up_leaves_nothing(root: Path) -> None:
    tree = Tree(str(root))
    upload = tree.begin_put("a/b", 1)
    upload.write(b"half")
    upload.abort()
    assert tree.scan(100)[0] == {}
    assert list((root / "a").iterdir()) == []


def test_an_upload_under_way_is_neither_listed_nor_visible_under_its_name(root: Path) -> None:
    tree = Tree(str(root))
    upload = tree.begin_put("b", 1)
    upload.write(b"half")
    assert tree.scan(100)[0] == {}
    assert not (root / "b").exists()
    upload.finish()
    assert list(tree.scan(100)[0]) == ["b"]


def test_a_race_between_a_file_and_a_link_never_leaks(root: Path) -> None:
    """One thread swaps them as fast as it can while the other reads."""
    (root / "real").write_bytes(b"mine")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "tmp").symlink_to("../secret")
            (root / "tmp").rename(root / "x")
            os.link(root / "real", root / "tmp")
            (root / "tmp").rename(root / "x")
            # A rename onto another name of the same file does nothing.
            (root / "tmp").unlink(missing_ok=True)

    thread = threading.Thread(target=swap)
    thread.start()
    tree = Tree(str(root))
    seen: set[bytes] = set()
    refused = 0
    deadline = time.monotonic() + 2
    try:
        while time.monotonic() < deadline:
            try:
                seen.add(read(tree, "x"))
            except Refused:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert seen == {b"mine"}
    assert refused


def test_a_scan_stops_at_its_limit_and_says_so(root: Path) -> None:
    for number in range(50):
        (root / str(number)).touch()
    tree = Tree(str(root))
    found, more = tree.scan(20)
    assert (len(found), more) == (20, True)
    found, more = tree.scan(50)
    assert (len(found), more) == (50, False)


def test_a_scan_follows_no_links_and_ends_in_deep_trees(root: Path) -> None:
    (root / "loop").symlink_to(".")
    deep = root
    for _ in range(40):
        deep = deep / "d"
        deep.mkdir()
        (deep / "f").touch()
    found, _ = Tree(str(root)).scan(1000)
    assert len(found) == files.MAX_DEPTH - 1
    assert not any(path.startswith("loop") for path in found)


def test_a_name_that_is_not_utf8_does_not_stop_a_scan(root: Path) -> None:
    with open(os.fsencode(root) + b"/\xff\xfe", "wb"):  # noqa: PTH123
        pass
    found, _ = Tree(str(root)).scan(10)
    assert len(found) == 1


def test_descriptors_are_given_back(root: Path) -> None:
    tree = Tree(str(root))
    put(tree, "a/b/c", b"x")
    make_link(root)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        read(tree, "a/b/c")
        put(tree, "a/b/d", b"x")
        tree.scan(100)
        for path in ("x", "a/none", "a/b/c/d", "a/b"):
            with pytest.raises(Refused):
                tree.open_read(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
