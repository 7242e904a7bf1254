"""What arrives through Celery, and the checks before anything of it is opened."""
