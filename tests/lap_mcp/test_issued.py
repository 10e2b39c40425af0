"""A credential that a runtime is issued while it runs is scrubbed like one that is configured."""

from __future__ import annotations

from lap_runtimes.config import HTTPRuntimeConfig

from lap_mcp.config import SecretResolver
from lap_mcp.scrub import MAX_ISSUED, Scrubber
from tests.canary import canary

from .test_config import Setting, user

__all__ = ["user"]


def test_what_an_adapter_is_issued_is_scrubbed_wherever_text_leaves(user: Setting) -> None:
    token, scrubber = canary("bearer"), Scrubber()
    config = user.load("[runtimes.r]\nkind='http'\nurl='http://x'\n")
    resolver = SecretResolver({}, user.home, scrubber)
    settings = config.adapter_settings("r", HTTPRuntimeConfig, resolver)
    assert settings.learn_secret is not None

    settings.learn_secret(token)

    assert scrubber.text(f"Authorization: Bearer {token}.") == "Authorization: Bearer [secret]."
    assert scrubber.data({"echo": [token]}) == {"echo": ["[secret]"]}


def test_expired_ones_make_room_and_what_is_configured_stays() -> None:
    scrubber = Scrubber()
    scrubber.add("configured")
    for number in range(MAX_ISSUED + 1):
        scrubber.issued(f"issued/{number:03}")
    assert scrubber.text("configured issued/000 issued/001 issued%2F032") == (
        "[secret] issued/000 [secret] [secret]"
    )
