"""`[models.NAME]` in the configuration: read, and what is wrong with it said at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lap_mcp.config import Config, SecretResolver, Surroundings, load_config
from lap_mcp.scrub import Scrubber

SECRETS = {"KEY": "a-secret-of-some-length"}


def read(folder: Path, text: str) -> Config:
    file = folder / "lap.toml"
    file.write_text(text)
    file.chmod(0o600)
    here = Surroundings(environ=SECRETS, home=folder, folder=folder)
    return load_config(here, SecretResolver(SECRETS, folder, Scrubber()), option=str(file))


def test_a_models_key_is_resolved_and_shown_nowhere(tmp_path: Path) -> None:
    text = '[models."gpt-5/x"]\nbase_url = "https://h/v1"\napi_key = "env:KEY"\naliases = "a, b"'
    config = read(tmp_path, text)
    table = config.models["gpt-5/x"]
    assert config.faults == ()
    assert table.api_key is not None
    assert table.api_key.get_secret_value() == SECRETS["KEY"]
    assert table.aliases == ("a", "b")
    assert SECRETS["KEY"] not in repr(config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[models.a]\nmodel = "x"', "base_url"),
        ('[models.a]\nbase_url = "ftp://h"', "not an http"),
        ('[models.a]\nbase_url = "http://user:pw@h"', "user name or password"),
        ('[models.a]\nbase_url = "http://h"\napi_key = "env:NOT_SET"', "NOT_SET"),
        ('[models.a]\nbase_url = "http://h"\napi_key = "sk-inline-secret"', "does not belong"),
        ('[models.a]\nbase_url = "http://h"\napi = "soap"', "responses"),
        ('[models.a]\nbase_url = "http://h"\nheaders = {"x" = "a\\nb"}', "header"),
        ('[models."agent/a"]\nbase_url = "http://h"', "refused"),
        (
            '[models.a]\nbase_url = "http://h"\naliases = ["b"]\n'
            '[models.b]\nbase_url = "http://h"',
            "'b'",
        ),
        (
            '[models.a]\nbase_url = "http://h"\ndefault = true\n'
            '[models.b]\nbase_url = "http://h"\ndefault = true',
            "default already",
        ),
        ('[openai]\nmax_memory = "2g"', "4g"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_model_is_one_fault_in_words(
    tmp_path: Path, text: str, words: str
) -> None:
    (fault,) = read(tmp_path, text).faults
    assert words in f"{fault.message} {fault.remedy} {fault.key}"
    assert fault.line
    assert "sk-inline-secret" not in str(fault)
