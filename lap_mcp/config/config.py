"""The configuration as the rest of the program gets it: validated, frozen, with its faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lap_mcp.errors import ConfigError
from lap_mcp.model import Problem

from .faults import KeyPath, Locator, as_problem, faults_of
from .secrets import SecretResolver
from .tables import (
    AgentTable,
    AnthropicTable,
    LimitsTable,
    LogsTable,
    McpTable,
    ModelTable,
    OpenAITable,
    RetentionTable,
    RuntimeTable,
    SandboxTable,
    ServerTable,
    StoreTable,
)

_Settings = TypeVar("_Settings", bound=BaseModel)

_CONTROL_KEYS = tuple(name for name in RuntimeTable.model_fields if name != "settings")


class ConfigFaults(ConfigError):
    """Several things are wrong; each is one line of the message."""

    def __init__(self, faults: tuple[ConfigError, ...]) -> None:
        super().__init__(faults[0].message, remedy=faults[0].remedy)
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    file: Path | None
    """The file that was read, or was to be read; `None` where there is none."""
    home: Path
    """`LAP_HOME`: absolute, perhaps not made yet."""
    runtimes: Mapping[str, RuntimeTable]
    agents: Mapping[str, AgentTable]
    models: Mapping[str, ModelTable]
    sandbox: SandboxTable
    mcp: McpTable
    openai: OpenAITable
    anthropic: AnthropicTable
    limits: LimitsTable
    server: ServerTable
    store: StoreTable
    retention: RetentionTable
    logs: LogsTable
    store_url: str | None = field(default=None, repr=False)
    """`store.url` with its secret resolved."""
    broken_runtimes: frozenset[str] = frozenset()
    """Names of runtime tables that are not valid: their agents are known and disabled."""
    faults: tuple[ConfigError, ...] = ()
    warnings: tuple[Problem, ...] = ()
    unreadable: bool = False
    """The file could not be read or is not TOML: nothing of it is known."""
    locator: Locator = field(default_factory=Locator)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (*(as_problem(fault) for fault in self.faults), *self.warnings)

    def require(self) -> Config:
        """Raises: ConfigFaults, if anything is wrong."""
        if self.faults:
            raise ConfigFaults(self.faults)
        return self

    def fault(self, key: KeyPath, message: str, remedy: str = "") -> ConfigError:
        """A fault of the key, at its line."""
        return self.locator.fault(key, message, remedy)

    def adapter_settings(
        self, runtime: str, model: type[_Settings], resolver: SecretResolver
    ) -> _Settings:
        """The runtime's own keys, validated by its adapter's model, with secrets resolved.

        Raises:
            ConfigFaults
        """
        values = dict(self.runtimes[runtime].settings)
        try:
            context = {
                "resolve_secret": resolver,
                "read_variable": resolver.variable,
                "learn_secret": resolver.learn,
            }
            return model.model_validate(values, context=context)
        except ValidationError as error:
            key = ("runtimes", runtime)
            faults = faults_of(error, key, model, self.locator, also_known=_CONTROL_KEYS)
            raise ConfigFaults(tuple(faults)) from None
