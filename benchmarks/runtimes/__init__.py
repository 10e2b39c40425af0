"""What calling an agent through us adds to calling it with the vendor's own SDK, and what many
sessions at once cost: `scripts/bench runtimes`, or one row by its name, as
`scripts/bench runtimes-langgraph`.

Both sides are a process of their own (`worker.py`) and take turns in short blocks against the same
server.  Ours is the session engine with the adapter and the store (`ours.py`), without a face in
front of it; A2A is also called through the MCP face on stdio.

Nothing is imported here: `direct.py` also runs in an environment that has only one vendor's SDK.
"""
