"""What no web process is needed for: hearing of workers, and jobs whose web process or worker is gone."""
