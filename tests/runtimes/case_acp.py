"""The contract's cases of the `acp` kind: a real agent as a program."""

from pathlib import Path

from tests.runtimes.bench import Case
from tests.runtimes.programs import ProgramCase

CASES: list[Case] = [
    ProgramCase(
        id="acp",
        kind="acp",
        script=Path(__file__).with_name("acp_agent.py"),
        ask="ask /etc/passwd",
        ask_kind="approval",
        file="file a.txt body of it",
    )
]
