"""The management platform: tenants, their users, and access tokens."""
