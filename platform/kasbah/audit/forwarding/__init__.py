"""Forwarding: sequenced events go to a SIEM as they happen, in order, at least once, from where it left off."""
