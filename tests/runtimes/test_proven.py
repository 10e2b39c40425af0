"""What the page of a kind says of its tests, `docs/proven.md` and `runtimes/README.md` say too:
what it was tested against, and what only a vendor's account could prove."""

from __future__ import annotations

import re

import pytest

from tests.capabilities import ROOT
from tests.runtimes.real_cases import REAL_CASES
from tests.runtimes.test_readme import table

PAGE = (ROOT / "docs" / "proven.md").read_text(encoding="utf-8")
KINDS = sorted(row[0].strip("`") for row in table("kind")[1])


def sentences(kind: str) -> tuple[str, str]:
    """The two of the kind's page."""
    page = (ROOT / "runtimes" / "kinds" / f"{kind}.md").read_text(encoding="utf-8")
    (tested,) = re.findall(r"^- \*\*Tested against\*\* (.+)$", page, re.MULTILINE)
    ((who, what),) = re.findall(r"^- \*\*Only (.+?) could prove:\*\* (.+)$", page, re.MULTILINE)
    return tested, f"{who}: {what}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_says_what_the_page_of_its_kind_says(kind: str) -> None:
    tested, only = sentences(kind)
    assert f"| [`{kind}`](../runtimes/kinds/{kind}.md) | {tested} | {only} |" in PAGE.splitlines()


def test_there_is_a_row_for_every_kind_and_no_other() -> None:
    assert re.findall(r"^\| \[`(\w+)`\]", PAGE, re.MULTILINE) == KINDS


@pytest.mark.parametrize("row", table("kind")[1], ids=lambda row: row[0])
def test_the_short_word_for_it_fits_the_page_and_the_cases(row: list[str]) -> None:
    kind, short = row[0].strip("`"), row[3]
    tested, _ = sentences(kind)
    assert ("fake" in short) == ("contract fake" in tested)
    real = {case.kind for case in REAL_CASES} | {"opencode", "claude_managed_agents"}
    assert ("in tier 2" in short) == (kind in real)
    assert ("by a script" in short) == (kind == "n8n")
    assert kind not in real or "(tier 2)" in tested
