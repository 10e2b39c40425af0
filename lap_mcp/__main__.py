"""`python -P -m lap_mcp`: the same as `lap-mcp`."""

from lap_mcp.cli import main

main()
