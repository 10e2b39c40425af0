"""The OpenAI-compatible face beside the model's server itself."""
