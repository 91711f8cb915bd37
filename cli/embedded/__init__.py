"""PostgreSQL and Valkey from wheels, run by us on 127.0.0.1."""
