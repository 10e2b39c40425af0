"""Sandboxes that are kept, end to end: the real program, a real engine, a person's files."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.lap_mcp.test_serve import Service
from tests.lap_mcp.user import User
from tests.waiting import eventually

FILE = re.compile(r"lap://sandboxes/(sbx_[0-9a-f]{32})/files/\S+")


@pytest.mark.docker
def test_what_a_killed_server_made_goes_on_in_the_next_one_and_is_saved_and_exported(
    user: User,
) -> None:
    del user.environ["DOCKER_HOST"]
    server = user.stdio()
    eventually(lambda: "being prepared" not in server.call("code_interpreter", code="x = 20"),
               within=300)  # fmt: skip
    made = server.call(
        "code_interpreter", code="open('out.csv', 'w').write('1,2'); open('run.sh', 'w').write('x')"
    )
    uri = next(found[0] for found in FILE.finditer(made) if found[0].endswith("out.csv"))
    sandbox = uri.split("/")[3]
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)

    later = user.stdio()
    saved = later.call("save_files", files=[uri])
    refused = later.call("save_files", files=[uri.replace("out.csv", "run.sh")])
    told = later.call("code_interpreter", code="print(open('out.csv').read())", sandbox=sandbox)
    later.end()
    notebook = json.loads(user.ok("sandbox", "export", sandbox, "--ipynb"))

    assert str(user.project / "lap-output" / "out.csv") in saved
    assert (user.project / "lap-output" / "out.csv").read_text() == "1,2"
    assert "a shell or a desktop runs it" in refused
    assert "1,2" in told
    assert "2 kept files are back in /mnt/data, variables and imports are gone" in told
    assert "opened again, files kept" in told.splitlines()[-1]
    assert "".join(notebook["cells"][-1]["source"]) == "print(open('out.csv').read())"
    assert notebook["cells"][-1]["outputs"][0]["text"] == ["1,2\n"]


def test_a_link_needs_no_key_and_a_wrong_one_opens_nothing(user: User) -> None:
    service = Service(user)
    forged, bare, other = (service.get(p) for p in ("/files/forged", "/files", "/filesx/y"))
    service.end()

    assert forged == (404, '{"error":"This link is not valid, or not valid any more."}')
    assert (bare[0], other[0]) == (401, 401)
    assert (user.data / "links.key").stat().st_mode & 0o777 == 0o600
