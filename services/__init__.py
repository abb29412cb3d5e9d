"""One service a domain, each with its own database."""
