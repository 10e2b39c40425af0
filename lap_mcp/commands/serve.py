"""`lap-mcp serve`: everything over HTTP, with a key, on loopback unless it is told more."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from lap_mcp.config import Config
from lap_mcp.errors import ConfigError

from .console import fail, program, put, read_config, run, say
from .keys import key_file, make_key


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 picks a free one.")] = None,
) -> None:
    """Serve MCP over HTTP.  Clients need the key that the first start writes."""
    started = program(context)
    overrides = dict(started.overrides)
    if host is not None:
        overrides["server", "host"] = ("--host", host)
    if port is not None:
        overrides["server", "port"] = ("--port", port)
    context.obj = started = type(started)(
        here=started.here,
        option=started.option,
        overrides=overrides,
        scrubber=started.scrubber,
    )
    config = read_config(context)
    try:
        check_hosts(config)
        first = not key_file(config.home).exists()
        key = make_key(config.home)
    except ConfigError as error:
        fail(error)
    started.scrubber.add(key)

    from lap_mcp.hosting import serve_http

    def ready(address: str) -> None:
        put(client_lines(address, config.home, first=first))

    run(lambda: serve_http(started, config, key, ready))
    say("stopped")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_hosts(config: Config) -> None:
    """Raises: ConfigError, for an address that others reach and no list of host names."""
    server = config.server
    if is_loopback(server.host) or server.allowed_hosts:
        return
    raise config.fault(
        ("server", "host"),
        f"{server.host} can be reached by others, and no host names are allowed.",
        'Write the names that clients use, `allowed_hosts = ["lap.example.com"]` in [server], and '
        "put a proxy with TLS in front: the key is sent with every request.",
    )


def client_lines(address: str, home: Path, *, first: bool) -> str:
    """What to type to add the server to a client.  The key itself is not printed: terminals and
    service logs are kept."""
    written = "was written to" if first else "is in"
    return "\n".join(
        (
            f"LAP MCP is served at {address}",
            f"The key {written} {key_file(home)}; `lap-mcp keys show` prints it.",
            "",
            f"OpenAI SDK:   export OPENAI_BASE_URL={address.removesuffix('/mcp')}/v1 "
            "OPENAI_API_KEY=$(lap-mcp keys show)   # models: [models.NAME] in lap.toml",
            "Claude Code:  claude mcp add --transport http lap "
            f'{address} --header "Authorization: Bearer $(lap-mcp keys show)"',
            "Codex:        export LAP_KEY=$(lap-mcp keys show)   # and in ~/.codex/config.toml:",
            f'              [mcp_servers.lap]\n              url = "{address}"\n'
            '              bearer_token_env_var = "LAP_KEY"',
            'Cursor:       {"mcpServers": {"lap": {"url": "'
            f'{address}", "headers": {{"Authorization": "Bearer KEY"}}}}}}}}'
            "   in ~/.cursor/mcp.json",
        )
    )
