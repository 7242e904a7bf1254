"""Deployments, workers and jobs: the row is the truth, Celery is the carrier."""
