//! `pg_doorman`: a PostgreSQL connection pooler.

pub mod app;
pub mod config;
