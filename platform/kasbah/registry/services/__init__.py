"""The verbs of the registry: bring a version in, approve it, find it."""

from kasbah.registry.services.versions import approve, find, get, list_versions, register_version, seen_of
from kasbah.registry.store import Progress, folder_of

__all__ = ["Progress", "approve", "find", "folder_of", "get", "list_versions", "register_version", "seen_of"]
