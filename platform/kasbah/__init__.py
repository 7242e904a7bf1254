"""Kasbah's control plane: tenants, residency, audit, registry, dispatch and the OpenAI-compatible gateway."""
