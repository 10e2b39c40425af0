"""The search for canaries finds what is planted, in every form, and never says what it found."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.canary import CHUNK, LAWFUL, SLOTS, canary, search
from tests.capabilities import ROOT

PREFIX = "t0e1s2t3p4r5e6f7i8x9abcd"
"""Not that of the run, whose search would find what is planted here."""
VALUE = f"{PREFIX}-planted"


def in_sqlite(path: Path, *values: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    connection.commit()
    # Without closing it, as a server that is killed.
    os._exit(0)


FORMS: dict[str, Callable[[], bytes]] = {
    "plain": VALUE.encode,
    "url": lambda: quote(f'{VALUE}"/+', safe="").encode(),
    "json": lambda: json.dumps(json.dumps(f'{VALUE}"\\')).encode(),
    "hex": lambda: VALUE.encode().hex().encode(),
    "utf16": lambda: VALUE.encode("utf-16-le"),
    "capitals": VALUE.upper().encode,
    "half": lambda: f"…{VALUE[:15]}".encode(),
    "cut": lambda: f'{{"delta": "{VALUE[:9]}"}}\n{{"delta": "{VALUE[9:]}"}}'.encode(),
    "base64": lambda: base64.b64encode(VALUE.encode()),
    "base64, 1 on": lambda: base64.b64encode(f"x{VALUE}".encode()),
    "base64, 2 on": lambda: base64.b64encode(f"xx{VALUE}".encode()),
    "urlsafe": lambda: base64.urlsafe_b64encode(f"Bearer {VALUE}".encode()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [0, 5, CHUNK - 7, 2 * CHUNK - 100])
def test_it_is_found_in_every_form_wherever_it_begins(
    tmp_path: Path, form: str, before: int
) -> None:
    (tmp_path / "below").mkdir()
    file = tmp_path / "below/file"
    file.write_bytes(b"." * before + FORMS[form]() + b"." * 200)
    hits = search([tmp_path], PREFIX)
    assert hits
    assert {hit.file for hit in hits} == {file}
    assert before <= hits[0].offset < before + 200
    assert search([tmp_path], "an0ther5prefix7of9a1run3") == []


def test_it_is_found_in_a_database_and_in_its_log(tmp_path: Path) -> None:
    """Also across its pages, which are of 4096 bytes."""
    plant = "import sys; from pathlib import Path; from tests.test_canary import in_sqlite; "
    plant += "in_sqlite(Path(sys.argv[1]), sys.argv[2])"
    for at in (0, 4070, 4080, 8150):
        path = tmp_path / f"{at}.db"
        value = "x" * at + VALUE + "y" * 9000
        subprocess.run([sys.executable, "-c", plant, path, value], cwd=ROOT, check=True, timeout=60)
        log = path.with_name(f"{path.name}-wal")
        assert {hit.file for hit in search([tmp_path], PREFIX)} == {log}
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        assert {hit.file for hit in search([tmp_path], PREFIX)} == {path}
        path.unlink()


def test_the_name_of_a_file_counts(tmp_path: Path) -> None:
    (tmp_path / VALUE).write_text("nothing")
    (hit,) = search([tmp_path], PREFIX)
    assert VALUE not in str(hit)


def test_only_the_files_that_may_hold_one_are_left_out(tmp_path: Path) -> None:
    for pattern in LAWFUL:
        (tmp_path / pattern.replace("*", "bearer")).write_text(VALUE)
    assert search([tmp_path], PREFIX) == []
    (tmp_path / "serve.key.bak").write_text(VALUE)
    (hit,) = {hit.file for hit in search([tmp_path], PREFIX)}
    assert hit.name == "serve.key.bak"


def test_the_command_fails_with_the_place_and_without_the_value(tmp_path: Path) -> None:
    def run(*places: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.canary", *places],
            cwd=ROOT,
            env={**os.environ, "LAP_TEST_CANARY": PREFIX},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    file = tmp_path / "log"
    file.write_text("nothing")
    (tmp_path / "slot-bearer").touch()
    done = run(tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stdout + done.stderr
    assert "in 1 slots, 2 files" in done.stdout
    file.write_text(f"12345{VALUE}")
    done = run(tmp_path)
    assert done.returncode == 1
    assert f"{file}, at byte 5" in done.stdout
    assert PREFIX[:12] not in done.stdout + done.stderr
    assert PREFIX[12:] not in done.stdout + done.stderr
    assert run(tmp_path / "absent").returncode == 2


def test_slots_have_values_of_their_own_and_others_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LAP_TEST_OUTPUT", raising=False)  # the run counts slots that are used
    assert len({canary(slot) for slot in SLOTS}) == len(SLOTS)
    with pytest.raises(KeyError):
        canary("unheard-of")
