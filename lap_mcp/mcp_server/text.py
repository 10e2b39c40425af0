"""Text that leaves through MCP.  How it is cleaned and cut is the same for every face."""

from __future__ import annotations

from lap_mcp.plain_text import Page, clean, iso, one_line, page, shorten

__all__ = ["Page", "clean", "iso", "one_line", "page", "shorten"]
