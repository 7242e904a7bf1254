"""The OpenAI-compatible API: a small ASGI application beside Django in the same process."""
