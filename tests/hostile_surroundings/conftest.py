"""The town of `tests/lap_mcp/town.py`, for the tests of this folder."""

from tests.lap_mcp.town import town

__all__ = ["town"]
