"""From a web process to the workers of a site and back: carriers, the reader of replies, the watch over leases."""
