"""The `dotmac` command: a client of the REST API like any other, and the operator's tools."""
