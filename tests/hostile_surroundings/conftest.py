"""The towns and users of `town.py` and `user.py`, for the tests of this folder."""

from tests.lap_mcp.town import town
from tests.lap_mcp.user import user

__all__ = ["town", "user"]
