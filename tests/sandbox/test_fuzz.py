"""The frame parsers, fed for a moment with what is nearly right; at length: `fuzz.py`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lap_sandbox.runner.processes import Counters

from tests.sandbox import fuzz

COUNTERS = Counters("/nowhere")


@given(fuzz.streams, fuzz.cuts, st.booleans())
def test_what_a_sandbox_sends_never_breaks_the_host(
    data: bytes, where: list[int], mixed: bool
) -> None:
    fuzz.to_host(data, where, mixed=mixed)


@given(fuzz.streams, fuzz.cuts)
def test_what_a_worker_sends_never_breaks_the_supervisor(data: bytes, where: list[int]) -> None:
    fuzz.to_supervisor(data, where, COUNTERS)
