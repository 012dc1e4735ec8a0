//! `pg_doorman`: a PostgreSQL connection pooler.

pub mod protocol;

pub mod auth;
