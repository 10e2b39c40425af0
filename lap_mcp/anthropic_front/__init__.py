"""The Anthropic-compatible face: an unchanged `code_execution` request runs in our sandbox."""
