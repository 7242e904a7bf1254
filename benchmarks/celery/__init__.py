"""Celery as a carrier: what a message costs with its stock parts and with the worker's."""
