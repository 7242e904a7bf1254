"""A witness: somebody else's program that vouches for having seen a log grow and nothing else (C2SP tlog-witness).

It needs neither Django nor a database: `python -m kasbah.audit.witness --help`.
"""
