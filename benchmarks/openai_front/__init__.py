"""The faces for models' clients beside the model's server itself and, the OpenAI-compatible one,
beside LiteLLM:
`scripts/bench openai-front`, or one by its name, as `scripts/bench openai-front-cases`.

LiteLLM comes into two environments of its own below `.cache`: its proxy, and its SDK, which alone
has the newest interception of `code_interpreter`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.report import Report
from benchmarks.surroundings import Place

from . import cases, messages, passing, rounds

OPENAI_FRONT: Mapping[str, tuple[Callable[[Place, int], Awaitable[list[Report]]], int]] = {
    "openai-front-passing": (passing.passing, 2000),
    "openai-front-code": (rounds.code, 500),
    "openai-front-cases": (cases.cases, 1),
    "anthropic-front-passing": (messages.passing, 2000),
    "anthropic-front-code": (messages.code, 500),
}
"""Each with how often it does its thing."""
