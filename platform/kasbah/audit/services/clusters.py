"""Whether the database is still in the cluster that the log knows, for processes that are about to serve."""

from kasbah.audit.log.cluster import refuse_other

__all__ = ["refuse_other"]
