"""The OpenAI-compatible face: an unchanged `code_interpreter` request runs in our sandbox."""
