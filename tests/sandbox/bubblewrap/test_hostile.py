"""`tests/sandbox/test_hostile.py` once more, without a container engine."""

import pytest
from lap_sandbox.base import Sandbox
from tests.sandbox.test_hostile import *  # noqa: F403
from tests.sandbox.test_hostile import run, value

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]


async def test_nothing_secret_is_in_the_environment_or_in_proc(sandbox: Sandbox) -> None:
    """25, 58, 60"""
    names = await value(sandbox, "import os; sorted(set(os.environ) - {'LD_LIBRARY_PATH'})")
    expected = ["HOME", "HOSTNAME", "LANG", "LOGNAME", "MPLBACKEND", "MPLCONFIGDIR",
                "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONDONTWRITEBYTECODE",
                "USER"]  # fmt: skip
    assert names == repr(expected)
    for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/maps"):
        refused = await run(sandbox, f"open('{path}', 'rb').read()")
        assert refused.error is not None, path
        assert refused.error.name == "PermissionError", path
    assert await value(sandbox, "sorted(os.listdir('/etc'))") == (
        "['group', 'nsswitch.conf', 'passwd']"
    )
    assert await value(sandbox, "import socket; socket.gethostname()") == "'sandbox'"
