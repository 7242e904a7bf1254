"""The inference worker: one process at one site that drives the engine; it has no Django and no database."""
