"""Security that is made rather than configured: the bill of materials, and who may do what at the broker."""
