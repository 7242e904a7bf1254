"""Who is who: tenants, projects, users and their roles, API keys, authentication."""
