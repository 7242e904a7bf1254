"""The management API of tenants, projects, people and keys, and how every management endpoint knows who asks."""
