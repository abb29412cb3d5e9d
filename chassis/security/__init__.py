"""Tokens, principals and scopes."""
