"""Reads the configuration: file, then `LAP_…` variables, then options; and says what is wrong.

Nothing here raises for a bad file.  What can be used is used, the rest is in `Config.faults`: the
stdio server starts with it, `serve` and the commands refuse it.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from lap_mcp.errors import ConfigError
from lap_mcp.model import Problem

from .config import Config
from .faults import KeyPath, Locator, dotted, faults_of, suggestion
from .lines import line_numbers
from .mounts import usable_mounts
from .places import Surroundings, config_file, data_folder
from .secrets import SecretResolver
from .tables import PLAIN_TABLES, TABLE_NAMES, AgentTable, ModelTable, RuntimeTable, Table

MAX_FILE_BYTES = 1024 * 1024
RUNTIME_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
AGENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
MODEL_NAME = re.compile(r"(?!agent/)[\w.:/@*+-]{1,100}", re.ASCII)
_MODEL_RULE = "use letters, digits and . _ - / : @ + *, at most 100, and not agent/ first."
_NAME_RULE = "use lower-case letters, digits and _, starting with a letter, at most {} characters."
_SETTINGS_OF_OURS = frozenset({"CONFIG", "HOME"})
_ERROR_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")

Overrides = Mapping[KeyPath, tuple[str, Any]]
"""Key to the name of what sets it, for messages, and the value."""


class _Source(NamedTuple):
    data: dict[str, Any]
    locator: Locator
    faults: list[ConfigError]
    broken: bool


def load_config(
    here: Surroundings,
    resolver: SecretResolver,
    *,
    option: str | None = None,
    overrides: Overrides | None = None,
) -> Config:
    """`option` is `--config`; `overrides` are values of other options."""
    faults: list[ConfigError] = []
    file, home = _places(here, option, faults)
    variables, warnings = _variables(here.environ)
    source = _read(file, {**variables, **(overrides or {})})
    faults += source.faults
    if file is not None:
        warnings += _file_warnings(file)
    reader = _Tables(source.data, source.locator)
    plain = reader.plain_tables(safe=bool(faults))
    runtimes = reader.runtimes()
    agents = reader.agents(runtimes)
    models = reader.models(resolver)
    faults += reader.faults
    plain["sandbox"], refused = usable_mounts(plain["sandbox"], here, home, source.locator)
    faults += refused
    store_url = _store_url(plain["store"], source.locator, resolver, faults)
    return Config(
        file=file,
        home=home,
        runtimes=runtimes,
        agents=agents,
        models=models,
        broken_runtimes=frozenset(reader.broken_runtimes),
        store_url=store_url,
        faults=tuple(sorted(faults, key=lambda fault: fault.line or 0)),
        warnings=(*warnings, *resolver.warnings),
        unreadable=source.broken,
        locator=source.locator,
        **plain,
    )


def _places(
    here: Surroundings, option: str | None, faults: list[ConfigError]
) -> tuple[Path | None, Path]:
    file: Path | None = None
    try:
        file, named = config_file(here, option)
        if not named and not file.exists():
            file = None
    except ConfigError as fault:
        faults.append(fault)
    try:
        return file, data_folder(here)
    except ConfigError as fault:
        faults.append(fault)
        without = {name: value for name, value in here.environ.items() if name != "LAP_HOME"}
        return file, data_folder(Surroundings(environ=without, home=here.home, folder=here.folder))


def _variables(environ: Mapping[str, str]) -> tuple[dict[KeyPath, tuple[str, Any]], list[Problem]]:
    """`LAP_SANDBOX__MEMORY=2g` sets `sandbox.memory`; values are TOML, or else text."""
    found: dict[KeyPath, tuple[str, Any]] = {}
    warnings: list[Problem] = []
    for name, value in sorted(environ.items()):
        if not name.startswith("LAP_") or name[4:] in _SETTINGS_OF_OURS or "__" not in name:
            continue
        key = tuple(part.lower() for part in name[4:].split("__"))
        if key[0] in TABLE_NAMES and all(key):
            found[key] = (name, _toml_or_text(value))
        else:
            warnings.append(
                Problem(
                    where=name,
                    message="This variable sets nothing: it names no table.",
                    remedy=suggestion(key[0], TABLE_NAMES, "Tables"),
                    level="warning",
                )
            )
    return found, warnings


def _toml_or_text(value: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _read(file: Path | None, overrides: Overrides) -> _Source:
    data: dict[str, Any] = {}
    lines: Mapping[KeyPath, int] = {}
    faults: list[ConfigError] = []
    if file is not None:
        try:
            text = _text(file)
            data = tomllib.loads(text)
            lines = line_numbers(text)
        except ConfigError as fault:
            faults.append(fault)
        except tomllib.TOMLDecodeError as exc:
            faults.append(_syntax_fault(file, text, exc))
        except RecursionError:
            faults.append(ConfigError("This file nests too deep.", file=str(file)))
    broken = bool(faults)
    for key, (_, value) in overrides.items():
        _put(data, key, value)
    names = {key: name for key, (name, _) in overrides.items()}
    return _Source(data, Locator(file=file, lines=lines, overrides=names), faults, broken)


def _text(file: Path) -> str:
    try:
        state = file.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ConfigError("This is not a regular file.", file=str(file))
        if state.st_size > MAX_FILE_BYTES:
            raise ConfigError("This file is larger than 1 MB.", file=str(file))
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise ConfigError(
            "There is no such file.",
            file=str(file),
            remedy="Run `lap-mcp init` to write one, or correct --config or LAP_CONFIG.",
        ) from exc
    except OSError as exc:
        words = (exc.strerror or "error").lower()
        raise ConfigError(f"This file cannot be read: {words}.", file=str(file)) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("This file is not UTF-8 text.", file=str(file)) from exc


def _syntax_fault(file: Path, text: str, exc: tomllib.TOMLDecodeError) -> ConfigError:
    match = _ERROR_LINE.search(str(exc))
    at = match[1] if match and match[1] else None
    line = int(at) if at else max(1, len(text.splitlines()))
    words = _ERROR_LINE.sub("", str(exc))
    return ConfigError(
        f"This is not TOML: {words[:1].lower()}{words[1:]}.",
        file=str(file),
        line=line,
        remedy="Correct this line; text values need quotes.",
    )


def _put(data: dict[str, Any], key: KeyPath, value: Any) -> None:
    table = data
    for part in key[:-1]:
        below = table.get(part)
        if not isinstance(below, dict):
            below = table[part] = {}
        table = below
    table[key[-1]] = value


def _file_warnings(file: Path) -> list[Problem]:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return []
    if not mode & 0o022:
        return []
    return [
        Problem(
            where=str(file),
            message="Others can write this file, and so decide where your prompts go.",
            remedy=f"Run `chmod go-w {file}`.",
            level="warning",
        )
    ]


def _store_url(
    table: Table, locator: Locator, resolver: SecretResolver, faults: list[ConfigError]
) -> str | None:
    url: str | None = getattr(table, "url", None)
    if url is None:
        return None
    key = ("store", "url")
    try:
        if url.startswith(("env:", "file:")):
            url = resolver(url).get_secret_value()
        elif re.match(r"[a-z+]+://[^/@]*:[^/@]+@", url):
            resolver(url)
    except ValueError as exc:
        faults.append(locator.fault(key, f"This key {exc}", getattr(exc, "remedy", "")))
        return None
    if url.split("://", 1)[0] not in ("sqlite", "postgresql"):
        faults.append(
            locator.fault(
                key,
                "This is not the address of a store we know.",
                'Write "sqlite:////absolute/path/lap.db" or "postgresql://host/database".',
            )
        )
        return None
    return url


class _Tables:
    """Validates the tables one by one, so that one bad table costs no other."""

    def __init__(self, data: Mapping[str, Any], locator: Locator) -> None:
        self._data = data
        self._locator = locator
        self.faults: list[ConfigError] = []
        self.broken_runtimes: set[str] = set()
        for name in data:
            if name not in TABLE_NAMES:
                remedy = suggestion(name, TABLE_NAMES, "Tables")
                self._fault((name,), "There is no such table.", remedy)

    def plain_tables(self, *, safe: bool) -> dict[str, Any]:
        """`safe`: the file could not be read, so what it restricted is not known."""
        tables = {name: self._plain(name, model) for name, model in PLAIN_TABLES.items()}
        if safe and ("mcp", "toolsets") not in self._locator.overrides:
            tables["mcp"] = tables["mcp"].model_copy(update={"toolsets": ("code",)})
        return tables

    def _plain(self, name: str, model: type[Table]) -> Table:
        """The table, without its bad keys: those are faults and have their default here; only
        a restriction that cannot be read stays a restriction."""
        values = self._mapping((name,))
        while True:
            try:
                return model.model_validate(values)
            except ValidationError as error:
                self.faults += faults_of(error, (name,), model, self._locator)
                bad = {str(details["loc"][0]) for details in error.errors()}
                values = {key: value for key, value in values.items() if key not in bad}
                if "read_only" in bad:
                    values["read_only"] = True

    def runtimes(self) -> dict[str, RuntimeTable]:
        found: dict[str, RuntimeTable] = {}
        for name in self._mapping(("runtimes",)):
            key = ("runtimes", name)
            values = self._mapping(key)
            ours = {k: v for k, v in values.items() if k in RuntimeTable.model_fields}
            theirs = {k: v for k, v in values.items() if k not in RuntimeTable.model_fields}
            if "settings" in ours:
                theirs["settings"] = ours.pop("settings")
            if not RUNTIME_NAME.fullmatch(name):
                self._fault(key, "This name is refused:", _NAME_RULE.format(32))
                self.broken_runtimes.add(name)
                continue
            try:
                found[name] = RuntimeTable.model_validate({**ours, "settings": theirs})
            except ValidationError as error:
                self.faults += faults_of(error, key, RuntimeTable, self._locator)
                self.broken_runtimes.add(name)
        return found

    def agents(self, runtimes: Mapping[str, RuntimeTable]) -> dict[str, AgentTable]:
        found: dict[str, AgentTable] = {}
        for name in self._mapping(("agents",)):
            key = ("agents", name)
            if not AGENT_NAME.fullmatch(name):
                self._fault(key, "This name is refused:", _NAME_RULE.format(48))
                continue
            try:
                agent = AgentTable.model_validate(self._mapping(key))
            except ValidationError as error:
                self.faults += faults_of(error, key, AgentTable, self._locator)
                continue
            if agent.runtime in runtimes or agent.runtime in self.broken_runtimes:
                found[name] = agent
            else:
                known = [*runtimes, *self.broken_runtimes]
                self._unknown_runtime((*key, "runtime"), agent.runtime, known)
        return found

    def models(self, resolver: SecretResolver) -> dict[str, ModelTable]:
        """A model whose key is missing is a fault like any other: `serve` refuses it, and nothing
        else needs it."""
        found: dict[str, ModelTable] = {}
        for name in self._mapping(("models",)):
            key = ("models", name)
            if not MODEL_NAME.fullmatch(name):
                self._fault(key, "This name is refused:", _MODEL_RULE)
                continue
            values = self._mapping(key)
            try:
                found[name] = ModelTable.model_validate(
                    values, context={"resolve_secret": resolver}
                )
            except ValidationError as error:
                self.faults += faults_of(error, key, ModelTable, self._locator)
        defaults: dict[bool, str] = {}
        for name, table in found.items():
            # One for clients of Messages, one for those of Responses and Chat Completions.
            first = defaults.setdefault(table.api == "anthropic", name) if table.default else name
            if first != name:
                self._fault(("models", name, "default"), f"{first} is the default already.")
        owners: dict[str, str] = {}
        for name, table in found.items():
            for known in (name, *table.aliases):
                if owners.setdefault(known, name) != name:
                    words = f"{known!r} is a name of [models.{owners[known]}] already."
                    self._fault(("models", name), words)
        return found

    def _unknown_runtime(self, key: KeyPath, name: str, known: Sequence[str]) -> None:
        remedy = suggestion(name, known, "Configured runtimes")
        self._fault(key, f"There is no [runtimes.{name}].", remedy or f"Add [runtimes.{name}].")

    def _mapping(self, key: KeyPath) -> dict[str, Any]:
        value: Any = self._data
        for part in key:
            value = value.get(part, {})
        if isinstance(value, dict):
            return value
        self._fault(key, "This has to be a table.", f"Write it as [{dotted(key)}].")
        return {}

    def _fault(self, key: KeyPath, message: str, remedy: str = "") -> None:
        self.faults.append(self._locator.fault(key, message, remedy))
