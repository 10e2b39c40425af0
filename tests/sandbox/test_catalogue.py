"""The catalogue of hostile cases is complete: `tests/hostile` has a test for each."""

from __future__ import annotations

import re

from tests.capabilities import ROOT
from tests.hostile.launchers import CONFINEMENTS


def numbers() -> set[int]:
    """Of all cases, taken from the names of tests and from the lists of attacks."""
    found: set[int] = set()
    for path in (ROOT / "tests" / "hostile").glob("test_*.py"):
        text = path.read_text()
        for name in re.findall(r"def test_((?:\d\d_)+)", text):
            found |= {int(number) for number in name.split("_") if number}
        found |= {int(number) for number in re.findall(r"Attack\(\s*(\d+),", text)}
    return found


def test_every_case_of_the_catalogue_has_a_test() -> None:
    assert set(range(1, 61)) - numbers() == set()


def test_a_case_that_does_not_apply_to_a_launcher_exists() -> None:
    for confinement in CONFINEMENTS:
        assert set(confinement.not_applicable) <= numbers()
        assert all(confinement.not_applicable.values())


def test_a_case_that_is_open_on_a_launcher_exists() -> None:
    files = sorted((ROOT / "tests" / "hostile").glob("test_*.py"))
    text = "".join(path.read_text() for path in files)
    for confinement in CONFINEMENTS:
        for case, why in confinement.open.items():
            assert why
            number, _, name = case.partition("-")
            test = f"def {case.partition('[')[0]}("
            attack = rf'Attack\(\s*{int(number)},\s*"{name}"' if number.isdigit() else "$^"
            assert test in text or re.search(attack, text), case
