"""Configuration: what is read, from where, and how each mistake is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from lap_runtimes.config import HTTPRuntimeConfig

from lap_mcp.config import (
    Config,
    ConfigFaults,
    SecretResolver,
    Surroundings,
    config_file,
    data_folder,
    load_config,
    make_private_folder,
    one_line,
)
from lap_mcp.errors import ConfigError
from lap_mcp.scrub import Scrubber
from tests.canary import canary


class Setting:
    """A user with a home folder, variables and a configuration file."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "home"
        self.project = tmp_path / "project"
        self.file = self.home / ".config/lap-mcp/lap.toml"
        self.file.parent.mkdir(parents=True)
        self.file.parent.chmod(0o700)
        self.project.mkdir()
        self.environ: dict[str, str] = {}
        self.scrubber = Scrubber()

    @property
    def here(self) -> Surroundings:
        return Surroundings(
            environ=self.environ, home=self.home, folder=self.project, platform="linux"
        )

    @property
    def resolver(self) -> SecretResolver:
        return SecretResolver(self.environ, self.home, self.scrubber)

    def load(self, text: str | None = None, **kwargs: Any) -> Config:
        if text is not None:
            self.file.write_text(text)
            self.file.chmod(0o600)
        return load_config(self.here, self.resolver, **kwargs)


@pytest.fixture
def user(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def faults(config: Config) -> list[str]:
    return [one_line(fault) for fault in config.faults]


def test_without_a_file_everything_has_its_default(user: Setting) -> None:
    config = user.load()
    assert config.file is None
    assert config.faults == ()
    assert config.mcp.toolsets == ("agents", "code", "sessions")
    assert config.limits.turns_per_session == 50
    assert config.home == user.home / ".local/share/lap-mcp"


def test_a_whole_file_is_read(user: Setting) -> None:
    config = user.load(
        """
        [runtimes.research]
        kind = "a2a"
        url = "http://127.0.0.1:9101"
        silence = "2m"

        [agents.pr_babysitter]
        runtime = "research"
        ref = "agent_01"
        description = "Watches a pull request."
        deadline = "48h"

        [sandbox]
        memory = "2g"
        cpus = 0.5
        """
    )
    assert faults(config) == []
    assert config.runtimes["research"].silence == 120
    assert config.runtimes["research"].settings == {"url": "http://127.0.0.1:9101"}
    assert config.agents["pr_babysitter"].deadline == 48 * 3600
    assert config.sandbox.memory == 2 * 1024**3


WRONG = [
    ("[sandbx]\nx = 1", 1, "sandbx", "Did you mean `sandbox`?"),
    ("[mcp]\n\nread_onli = true", 3, "mcp.read_onli", "Did you mean `read_only`?"),
    ("[limits]\nqueue = 'many'", 2, "limits.queue", "valid integer"),
    ("[sandbox]\nmemory = 'lots'", 2, "sandbox.memory", 'write for example "512m"'),
    ("[sandbox]\nlauncher = 'dockr'", 2, "sandbox.launcher", "'docker'"),
    ("[sandbox]\nnetwork_policy = 'allowlist'", 2, "sandbox.network_policy", "no network"),
    ("[sandbox]\nwheelhouse = 'wheels'", 2, "sandbox.wheelhouse", "absolute path"),
    ("sandbox = 3", 1, "sandbox", "[sandbox]"),
    ("[runtimes.Two]\nkind = 'a2a'", 1, "runtimes.Two", "lower-case letters"),
    ("[runtimes.two]\nurl = 'x'", 1, "runtimes.two.kind", "Add `kind = …` to [runtimes.two]."),
    ("[agents.x]\nruntime = 'gone'", 2, "agents.x.runtime", "Add [runtimes.gone]."),
    ("[agents.x]\nref = 'a'", 1, "agents.x.runtime", "Add `runtime = …`"),
    (
        "[runtimes.two]\nkind='a2a'\n[agents.x]\nruntime = 'tow'",
        4,
        "agents.x.runtime",
        "Did you mean `two`?",
    ),
    ("[agents.X-y]\nruntime = 'r'", 1, "agents.X-y", "lower-case letters"),
    (
        "[runtimes.r]\nkind='a2a'\n[agents.x]\nruntime='r'\ninput_schema={type='string'}",
        5,
        "agents.x.input_schema",
        "has to describe an object",
    ),
    ("[store]\nurl = 'mysql://x'", 2, "store.url", "postgresql://"),
]


@pytest.mark.parametrize(("text", "line", "key", "words"), WRONG)
def test_each_mistake_is_one_line_with_file_line_key_and_remedy(
    user: Setting, text: str, line: int, key: str, words: str
) -> None:
    config = user.load(text)
    (told,) = faults(config)
    assert told.startswith(f"{user.file}:{line} {key}: ")
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize("text", ["[mcp\nread_only = true", "x = ", "[a]\n[a]", "=", "a = 1 2"])
def test_a_file_that_is_not_toml_leaves_the_code_interpreter(user: Setting, text: str) -> None:
    config = user.load(text)
    (told,) = faults(config)
    assert f"{user.file}:" in told
    assert "not TOML" in told
    assert config.unreadable
    assert config.mcp.toolsets == ("code",)


def test_a_file_that_nests_without_end_is_refused(user: Setting) -> None:
    (told,) = faults(user.load("x = " + "[" * 200_000))
    assert "nests too deep" in told


def test_one_bad_table_costs_no_other(user: Setting) -> None:
    config = user.load(
        "[runtimes.good]\nkind='a2a'\n[runtimes.bad]\nkind=3\n[sandbox]\nwarm=99\ncpus=2.0\n"
        "[agents.a]\nruntime='bad'\n"
    )
    assert set(config.runtimes) == {"good"}
    assert config.broken_runtimes == {"bad"}
    assert config.sandbox.cpus == 2.0
    assert config.sandbox.warm == 1
    assert set(config.agents) == {"a"}


def test_a_restriction_that_cannot_be_read_stays_a_restriction(user: Setting) -> None:
    assert user.load("[mcp]\nread_only = 'yep'").mcp.read_only is True


def test_commands_refuse_what_the_stdio_server_bears(user: Setting) -> None:
    config = user.load("[mcp]\nx = 1\ny = 2")
    with pytest.raises(ConfigFaults) as caught:
        config.require()
    assert len(caught.value.faults) == 2


def test_line_numbers_survive_multi_line_values_and_inline_tables(user: Setting) -> None:
    config = user.load(
        "[runtimes.r]\n"
        "kind = 'a2a'  # [not.a.table]\n"
        'note = """\n[agents.fake]\nruntime = 1\n"""\n'
        "list = [\n  'a', # ]\n  'b',\n]\n"
        "auth = { bearer = 'env:T', wrong = 1 }\n"
        "[[runtimes.r.many]]\n"
        "x = 1\n"
        '"quoted.key" = 2\n'
    )
    lines = config.locator.lines
    assert lines[("runtimes", "r", "note")] == 3
    assert lines[("runtimes", "r", "list")] == 7
    assert lines[("runtimes", "r", "list", "1")] == 9
    assert lines[("runtimes", "r", "auth", "wrong")] == 11
    assert lines[("runtimes", "r", "many", "0", "x")] == 13
    assert lines[("runtimes", "r", "many", "0", "quoted.key")] == 14
    assert ("agents", "fake") not in lines


# Where it is


def test_the_working_folder_is_never_read(user: Setting) -> None:
    (user.project / "lap.toml").write_text("[runtimes.evil]\nkind = 'http'\nurl = 'http://x'")
    assert user.load().runtimes == {}


def test_the_file_is_where_option_variable_or_platform_say(user: Setting) -> None:
    assert config_file(user.here)[0] == user.file
    user.environ["XDG_CONFIG_HOME"] = "/elsewhere"
    assert config_file(user.here)[0] == Path("/elsewhere/lap-mcp/lap.toml")
    user.environ["LAP_CONFIG"] = "~/mine.toml"
    assert config_file(user.here)[0] == user.home / "mine.toml"
    assert config_file(user.here, "other.toml")[0] == user.project / "other.toml"


def test_relative_folders_from_variables_are_not_looked_up_in_the_working_folder(
    user: Setting,
) -> None:
    user.environ |= {"XDG_CONFIG_HOME": "conf", "XDG_DATA_HOME": "data"}
    assert config_file(user.here)[0] == user.file
    assert data_folder(user.here) == user.home / ".local/share/lap-mcp"
    user.environ["LAP_CONFIG"] = "lap.toml"
    (user.project / "lap.toml").write_text("[runtimes.evil]\nkind = 'http'")
    config = user.load()
    assert "relative path" in faults(config)[0]
    assert config.runtimes == {}


def test_a_named_file_that_does_not_exist_is_a_fault(user: Setting) -> None:
    user.environ["LAP_CONFIG"] = str(user.home / "none.toml")
    assert "There is no such file" in faults(user.load())[0]


def test_macos_has_its_own_folders(user: Setting) -> None:
    here = Surroundings(environ={}, home=user.home, folder=user.project, platform="darwin")
    assert config_file(here)[0] == user.home / "Library/Application Support/lap-mcp/lap.toml"
    assert data_folder(here) == user.home / "Library/Application Support/lap-mcp"


def test_variables_override_the_file_and_are_named_in_errors(user: Setting) -> None:
    user.environ |= {
        "LAP_SANDBOX__MEMORY": "2g",
        "LAP_LIMITS__QUEUE": "3",
        "LAP_RUNTIMES__R__URL": "http://other",
    }
    config = user.load("[runtimes.r]\nkind='http'\nurl='http://one'\n[limits]\nqueue=1")
    assert config.sandbox.memory == 2 * 1024**3
    assert config.limits.queue == 3
    assert config.runtimes["r"].settings["url"] == "http://other"
    user.environ["LAP_LIMITS__QUEUE"] = "some"
    assert faults(user.load())[0].startswith("LAP_LIMITS__QUEUE limits.queue: ")


def test_a_variable_that_names_no_table_is_told(user: Setting) -> None:
    user.environ["LAP_SANDBX__MEMORY"] = "2g"
    (warning,) = user.load().warnings
    assert warning.where == "LAP_SANDBX__MEMORY"
    assert "sandbox" in warning.remedy


def test_a_file_that_others_can_write_is_told(user: Setting) -> None:
    user.file.write_text("")
    user.file.chmod(0o666)
    (warning,) = load_config(user.here, user.resolver).warnings
    assert "chmod" in warning.remedy


# Secrets


def secret(user: Setting, reference: str) -> tuple[str | None, list[str]]:
    text = f"[runtimes.r]\nkind='http'\nurl='http://x'\nauth = {{ bearer = '{reference}' }}\n"
    config = user.load(text)
    try:
        settings = config.adapter_settings("r", HTTPRuntimeConfig, user.resolver)
    except ConfigFaults as exc:
        return None, [one_line(fault) for fault in exc.faults]
    assert settings.auth.bearer is not None
    return settings.auth.bearer.get_secret_value(), []


def test_a_secret_comes_from_a_variable_or_a_file_and_is_scrubbed(user: Setting) -> None:
    in_env, in_file = canary("bearer"), canary("secret-file")
    user.environ["TOKEN"] = in_env
    assert secret(user, "env:TOKEN") == (in_env, [])
    path = user.home / "token.secret"
    path.write_text(f"{in_file}\n")
    path.chmod(0o600)
    assert secret(user, f"file:{path}") == (in_file, [])
    assert secret(user, "file:~/token.secret") == (in_file, [])
    assert user.scrubber.text(f"a {in_env} b {in_file}") == "a [secret] b [secret]"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        pytest.param(canary("inline"), "env:NAME", id="the secret itself"),
        ("env:NOT_SET", "NOT_SET, which is not set"),
        ("file:/nowhere/x", "no such file"),
        ("file:relative", "absolute"),
        ("file:/dev/zero", "not a small regular file"),
        ("env:", "env:NAME"),
    ],
)
def test_a_bad_reference_is_refused_without_showing_it(
    user: Setting, reference: str, words: str
) -> None:
    value, told = secret(user, reference)
    assert value is None
    assert told[0].startswith(f"{user.file}:4 runtimes.r.auth.bearer: ")
    assert words in told[0]
    assert canary("inline") not in told[0]
    user.file.unlink()  # the test itself wrote a secret where none belongs


def test_a_secret_file_that_others_can_read_is_told(user: Setting) -> None:
    path = user.home / "token.secret"
    path.write_text(canary("secret-file"))
    path.chmod(0o644)
    resolver = user.resolver
    resolver(f"file:{path}")
    assert [warning.where for warning in resolver.warnings] == [str(path)]


def test_a_store_address_with_a_password_has_to_be_a_reference(user: Setting) -> None:
    url = f"postgresql://lap:{canary('store')}@db/lap"
    config = user.load(f"[store]\nurl = '{url}'")
    assert "holds the secret itself" in faults(config)[0]
    assert canary("store") not in faults(config)[0]
    user.environ["DB"] = url
    config = user.load("[store]\nurl = 'env:DB'")  # the file with the address is gone
    assert config.store_url == url
    assert canary("store") not in repr(config)
    for password in (canary("store"), f"%40{canary('store')}%2F"):
        user.environ["DB"] = f"postgresql://lap:{password}@db/lap"
        user.load("[store]\nurl = 'env:DB'")
        told = user.scrubber.text(f"authentication failed for {unquote(password)}, {password}")
        assert told == "authentication failed for [secret], [secret]"
    user.environ["DB"] = f"postgresql://db/lap?user=lap&password={canary('store')}"
    user.load("[store]\nurl = 'env:DB'")
    assert user.scrubber.text(f"with {canary('store')}") == "with [secret]"


def test_an_unknown_key_of_an_adapter_is_found_with_its_nearest(user: Setting) -> None:
    config = user.load("[runtimes.r]\nkind='http'\nurl='http://x'\ndiscovr=true\nconnect_timeot=3")
    with pytest.raises(ConfigFaults) as caught:
        config.adapter_settings("r", HTTPRuntimeConfig, user.resolver)
    told = sorted(one_line(fault) for fault in caught.value.faults)
    assert told == [
        f"{user.file}:4 runtimes.r.discovr: There is no such key. Did you mean `discover`?",
        f"{user.file}:5 runtimes.r.connect_timeot: There is no such key. "
        "Did you mean `connect_timeout`?",
    ]


# LAP_HOME


def test_the_data_folder_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    make_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    make_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_data_folder_that_is_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="LAP_HOME"):
        make_private_folder(tmp_path / "file" / "home")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder away")
def test_a_data_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigError, match="another user"):
        make_private_folder(folder)
