"""Deploys tenants: a saga, stored step by step, that survives a crash at any point."""
