"""The API gateway: routing, tokens, limits, one OpenAPI document. No rules of any domain."""
