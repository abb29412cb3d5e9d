"""The microservice chassis every service stands on; it knows nothing of any domain."""
