"""Celery on the worker's event loop: a hub that asyncio drives, a pool of coroutines, a transport that batches."""
