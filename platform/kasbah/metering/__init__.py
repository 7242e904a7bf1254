"""Limits and usage: reserve before, settle after, one ledger for every endpoint."""
