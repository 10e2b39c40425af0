"""The commands of `lap-mcp`, one subject a file.  Results go to stdout, the rest to stderr."""
