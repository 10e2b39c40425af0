"""What every test gets: one async backend, a clean environment, a loop that must not be blocked,
and a reason in words where the machine lacks something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from tests import capabilities, processes
from tests.canary import keep

PRODUCT = ["lap_mcp", "lap_runtimes", "lap_sandbox"]


def pytest_configure(config: pytest.Config) -> None:
    try:
        capabilities.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def require(name: str, reason: str) -> None:
    """Skip the running test because the machine lacks `name`, or fail it where
    LAP_TEST_REQUIRE asks for it.  `reason` says how to get it."""
    if name in capabilities.required():
        pytest.fail(f"LAP_TEST_REQUIRE={name}, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, check in capabilities.CHECKS.items():
        if item.get_closest_marker(name) and (reason := check()):
            require(name, reason)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What a test printed and logged is shown where it fails only, and searched always."""
    for _, text in report.sections:
        keep(text, name=report.nodeid)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the person who runs the tests: no home, no settings, no proxy."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        for name in list(os.environ):
            ours = name.startswith("LAP_") and not name.startswith("LAP_TEST_")
            if ours or name.startswith("XDG_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _own_lap_home(
    _clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAP_HOME", str(tmp_path / "lap-home"))


@pytest.fixture(autouse=True)
def _loop_is_not_blocked() -> Iterator[None]:
    """A blocking call below our own code on a running loop raises `BlockingError`."""
    with blockbuster_ctx(scanned_modules=PRODUCT) as blockbuster:
        for function in blockbuster.functions.values():
            # Connecting to PostgreSQL and migrating it read files, once each.
            function.can_block_in("asyncpg/connect_utils.py", {"_connect"})
            # Small SQLite transactions run where they stand, and never wait for a lock there.
            function.can_block_in("lap_mcp/store/database.py", {"_migrate"})
            function.can_block_in("lap_mcp/store/sqlite.py", {"_at_once"})
            # The loop says before that there is something to read, the pipe that it has room.
            function.can_block_in("lap_mcp/mcp_server/stdio.py", {"_readable", "_written"})
        yield


@pytest.fixture
def started() -> Iterator[processes.Processes]:
    """`started.start([...])`; whatever runs at the end of the test is ended."""
    running = processes.Processes()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def free_port() -> Callable[[], int]:
    return processes.free_port
