"""Configuration: where it is, what may be in it, how it is read, and what is wrong with it."""

from .config import Config, ConfigFaults
from .faults import as_problem, nearest, one_line
from .load import AGENT_NAME, Overrides, load_config
from .places import (
    FILE_NAME,
    Surroundings,
    config_file,
    config_folder,
    data_folder,
    make_private_folder,
    surroundings,
)
from .secrets import Faulty, SecretResolver
from .tables import (
    TOOLSETS,
    AgentTable,
    AnthropicTable,
    ModelTable,
    OpenAITable,
    RuntimeTable,
    SandboxTable,
)

__all__ = [
    "AGENT_NAME",
    "FILE_NAME",
    "TOOLSETS",
    "AgentTable",
    "AnthropicTable",
    "Config",
    "ConfigFaults",
    "Faulty",
    "ModelTable",
    "OpenAITable",
    "Overrides",
    "RuntimeTable",
    "SandboxTable",
    "SecretResolver",
    "Surroundings",
    "as_problem",
    "config_file",
    "config_folder",
    "data_folder",
    "load_config",
    "make_private_folder",
    "nearest",
    "one_line",
    "surroundings",
]
