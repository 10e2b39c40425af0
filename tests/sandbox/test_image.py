"""The image as it was built: nothing of the machine that built it is in it."""

from __future__ import annotations

import json

import pytest
from lap_sandbox import image_build
from lap_sandbox.base import Sandbox

from tests.capabilities import SANDBOX_IMAGE
from tests.sandbox.engine_view import docker, inspect

pytestmark = pytest.mark.docker

FOREIGN = ("proxy", "pip_", "extra-ca", "ssl_cert", "requests_ca")


def test_neither_proxies_nor_certificates_are_in_its_settings_or_its_history() -> None:
    config = inspect(SANDBOX_IMAGE)["Config"]
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", SANDBOX_IMAGE)
    for text in (json.dumps(config).lower(), history.lower()):
        assert [word for word in FOREIGN if word in text] == []
    assert config["User"] == "65534:65534"
    assert config["Labels"][image_build.FLAVOR_LABEL] == "core"


@pytest.mark.anyio
async def test_no_installer_and_no_certificate_of_ours_is_in_its_files(sandbox: Sandbox) -> None:
    found = await sandbox.execute(
        "import importlib.util, os, shutil\n"
        "tops = ('/opt', '/etc', '/srv')\n"
        "files = [f for top in tops for _, _, names in os.walk(top) for f in names]\n"
        "[shutil.which('pip'), importlib.util.find_spec('pip'), os.path.exists('/build'),\n"
        " [f for f in files if f in ('extra-ca.pem', 'pip.conf')]]",
        timeout=60,
    )
    assert found.value == "[None, None, False, []]", found
