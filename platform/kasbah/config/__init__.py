"""Composition only: settings, URLs, the ASGI application and the Celery application."""
