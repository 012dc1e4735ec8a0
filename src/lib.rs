//! pg_doorman: a PostgreSQL connection pooler.
