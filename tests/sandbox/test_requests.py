"""Descriptions of files always fit into the header of a frame, whatever the names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lap_sandbox.runner import wire
from lap_sandbox.runner.requests import Requests
from lap_sandbox.runner.wire import Frame, Kind

EMOJI = "\U0001f600" * 60
NAMES = {
    "emoji": [f"{EMOJI}{number:03}" for number in range(300)],
    "control characters": [f"{chr(1) * 200}{number:03}" for number in range(300)],
    "plain": [f"file-{number:04}.txt" for number in range(3000)],
}


class Told:
    """What the host would get, as frames: encoding them is the test."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def __call__(
        self, kind: int, id: int, header: Mapping[str, Any] | None = None, body: bytes = b""
    ) -> None:
        self.frames += wire.Decoder().feed(wire.encode(kind, id, header, body))


def filled(root: Path, names: list[str]) -> set[str]:
    for name in names:
        (root / name).touch()
    return set(names)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_listing_comes_in_pages_and_whole(tmp_path: Path, names: list[str]) -> None:
    expected = filled(tmp_path, names)
    told = Told()
    Requests(str(tmp_path), told).handle(Frame(Kind.LIST, 1, {"limit": 20_000}))
    found = [info["path"] for frame in told.frames for info in frame.header["files"]]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert [frame.kind for frame in told.frames[:-1]] == [Kind.DATA] * (len(told.frames) - 1)
    assert told.frames[-1].kind == Kind.REPLY
    assert told.frames[-1].header["more"] is False


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_what_is_new_leaves_room_for_the_rest_of_its_header(
    tmp_path: Path, names: list[str]
) -> None:
    requests = Requests(str(tmp_path), Told())
    filled(tmp_path, names)
    infos, more = requests.changed(20_000)
    assert more is True
    assert 0 < len(wire.header_bytes({"files": infos})) < 50_000
