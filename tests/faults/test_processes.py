"""Server processes that die, stop and wake up: what was said is stored once, whole, in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time

import pytest

from lap_mcp.store.leases import LEASE

from .conftest import Lab, Server, eventually

PROMPT = "slow 20 0.1"
CHUNKS = "".join(f"chunk {number} of 12\n" for number in range(1, 13))


def undisturbed(lab: Lab) -> object:
    server = lab.server(1, PROMPT)
    ((session, turn),) = server.turns
    eventually(lambda: lab.outcome(turn) == "completed")
    lab.started.end(server.process)
    return lab.said(session)


def assert_gapless(lab: Lab, session: str) -> None:
    numbers = [seq for seq, _, _ in lab.events(session)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("away", [0.0, 4.0], ids=["at once", "after the agent has finished"])
def test_a_killed_server_loses_nothing_of_a_streaming_turn(lab: Lab, away: float) -> None:
    """SIGKILL in the middle of a streaming turn, then another server on the same home."""
    expected = undisturbed(lab)
    server = lab.server(1, PROMPT)
    ((session, turn),) = server.turns
    eventually(lambda: lab.query("SELECT * FROM open_messages WHERE session_id = ?", session))

    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    time.sleep(away)  # the agent goes on, or has finished, while no server lives
    assert lab.outcome(turn) == "running"
    lab.server()

    eventually(lambda: lab.outcome(turn) == "completed")
    assert lab.said(session) == expected
    assert_gapless(lab, session)


def test_a_server_that_stops_in_order_leaves_the_turn_to_the_next(lab: Lab) -> None:
    expected = undisturbed(lab)
    server = lab.server(1, PROMPT)
    ((session, turn),) = server.turns
    eventually(lambda: lab.query("SELECT * FROM turns WHERE id = ? AND phase = 2", turn))

    lab.started.end(server.process)
    lab.server()

    eventually(lambda: lab.outcome(turn) == "completed")
    assert lab.said(session) == expected
    assert_gapless(lab, session)


def stop_outside_a_transaction(lab: Lab, server: Server) -> None:
    """SIGSTOP at a moment when the server does not hold SQLite's write lock, which nobody can
    take from a stopped process (the test below is about that)."""
    connection = sqlite3.connect(lab.home / "lap.db", timeout=2, isolation_level=None)
    with contextlib.closing(connection):
        for _ in range(50):
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(server.process.pid, signal.SIGCONT)
            else:
                connection.execute("ROLLBACK")
                return
    raise AssertionError("the server was in a transaction each time")


def test_a_store_that_is_locked_for_longer_than_a_lease_loses_nothing(lab: Lab) -> None:
    """As by a process that is stopped in the middle of a transaction."""
    expected = undisturbed(lab)
    server = lab.server(1, PROMPT)
    other = lab.server()
    ((session, turn),) = server.turns
    eventually(lambda: lab.query("SELECT * FROM turns WHERE id = ? AND phase = 2", turn))
    lock = sqlite3.connect(lab.home / "lap.db", timeout=10, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    time.sleep(LEASE + 2)
    lock.execute("ROLLBACK")
    lock.close()

    eventually(lambda: lab.outcome(turn) == "completed", 90)
    assert lab.said(session) == expected
    assert_gapless(lab, session)
    assert server.process.poll() is None
    assert other.process.poll() is None


def test_four_servers_share_a_home_and_one_of_them_sleeps_past_its_leases(lab: Lab) -> None:
    """200 streaming turns; the sleeper's turns are taken over, and it can write nothing after."""
    servers = [lab.server(50, "slow 12 1.0") for _ in range(4)]
    sleeper = servers[-1]
    begun = "SELECT count(*) AS n FROM turns WHERE phase = 2 AND session_id = ?"
    eventually(lambda: all(lab.query(begun, session)[0]["n"] for session, _ in sleeper.turns), 60)
    stop_outside_a_transaction(lab, sleeper)
    try:
        # On a slow machine some have ended by now.
        mine = [session for session, turn in sleeper.turns if lab.outcome(turn) == "running"]
        assert mine
        fences = dict(lab.query("SELECT id, fence FROM sessions"))

        def taken() -> bool:
            rows = dict(lab.query("SELECT id, fence FROM sessions"))
            return all(rows[session] > fences[session] for session in mine)

        eventually(taken, LEASE + 60)
    finally:
        os.kill(sleeper.process.pid, signal.SIGCONT)

    def open_turns() -> int:
        rows = lab.query("SELECT count(*) AS n FROM turns WHERE outcome IN ('queued', 'running')")
        return int(rows[0]["n"])

    eventually(lambda: open_turns() == 0, 120)
    expected = [("agent.message", CHUNKS), ("agent.file", "report.txt")]
    for session, turn in (pair for server in servers for pair in server.turns):
        assert lab.outcome(turn) == "completed", (session, turn)
        assert_gapless(lab, session)
        said = [(kind, shown.get("text") or shown["name"]) for kind, shown in lab.said(session)]
        assert said == expected
