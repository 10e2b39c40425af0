"""The MCP face: what a client of the Model Context Protocol sees.

`face.py` puts the parts together, `sdk.py` is all that knows the SDK's provisional and private
parts, `toolset.py` is the seam for tools.  Nothing here knows a concrete service.
"""
