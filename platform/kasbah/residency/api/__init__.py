"""Management API of this app."""
