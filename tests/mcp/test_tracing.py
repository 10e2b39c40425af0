"""Spans are made where somebody collects them."""

from __future__ import annotations

import pytest
from mcp.server._otel import OpenTelemetryMiddleware
from opentelemetry.trace import NoOpTracerProvider

from lap_mcp.mcp_server import sdk
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from tests.mcp.scripted import World


def traces(world: World) -> bool:
    middleware = Face(world.services, FaceOptions()).server.middleware
    return any(isinstance(each, OpenTelemetryMiddleware) for each in middleware)


def test_nobody_collects_and_nothing_is_traced() -> None:
    assert not traces(World())


def test_a_provider_that_was_set_up_before_us_gets_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk, "get_tracer_provider", NoOpTracerProvider)
    assert traces(World())
