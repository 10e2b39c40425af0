"""`lap-mcp init`: a commented `lap.toml` to start from.  Never overwrites one."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from lap_mcp.config import config_file
from lap_mcp.errors import ConfigError, Conflict

from .console import fail, program, put, say

TEMPLATE = """\
# LAP MCP reads this file only from your own configuration folder, from --config or LAP_CONFIG,
# never from the folder it is started in.  A running server reads it again when it changes.
# Check it with `lap-mcp doctor`.

# A runtime is a system that hosts agents, and how to reach it.  Secrets are never written here:
# "env:NAME" takes one from the environment, "file:/absolute/path" from a file.

# [runtimes.research]
# kind = "a2a"                                  # any Agent2Agent server
# url = "http://127.0.0.1:9101"
# auth = { bearer = "env:RESEARCH_TOKEN" }
# discover = true                               # list what it hosts
# include = ["search*"]                         # only these of them
# trust = false                                 # changed descriptions wait for `agents accept`

# [runtimes.models]
# kind = "openai_responses"                     # any endpoint that speaks the Responses API
# url = "https://api.example.com/v1"
# auth = { bearer = "env:MODELS_KEY" }

# [agents.summarizer]                           # the name of its tool
# runtime = "models"
# ref = "small-model"                           # what the runtime calls it
# description = "Summarizes long texts."
# pinned = true                                 # stays a tool of its own among many agents
# deadline = "1h"                               # how long a turn may take

[sandbox]                                       # where code_interpreter runs Python
launcher = "auto"
memory = "1g"
cpus = 1.0
warm = 1                                        # sandboxes kept ready

# [mcp]
# toolsets = ["agents", "code", "sessions"]
# read_only = false
# folders = ["/data/shared"]                    # besides the project folder, for `files`

# [limits]
# turns_per_session = 50
# running_turns = 8

# [server]                                      # lap-mcp serve
# host = "127.0.0.1"
# port = 8700
"""


def init(context: typer.Context) -> None:
    """Write a configuration file to fill in."""
    started = program(context)
    try:
        file, _ = config_file(started.here, started.option)
        write_new(file)
    except (ConfigError, Conflict) as error:
        fail(error)
    put(str(file))
    say("Fill it in, then run `lap-mcp doctor`.")


def write_new(file: Path) -> None:
    """Raises: Conflict (there is one already), ConfigError (it cannot be written)."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise Conflict(f"{file} exists; it is left as it is.") from exc
    except OSError as exc:
        words = (exc.strerror or "error").lower()
        raise ConfigError(f"{file} cannot be written: {words}.") from exc
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(TEMPLATE)
