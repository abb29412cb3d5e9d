"""PostgreSQL: connections, transactions, tenancy by row-level security, migrations."""
