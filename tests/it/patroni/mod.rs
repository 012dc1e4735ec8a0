//! `patroni_proxy` with a scripted REST endpoint.
//!
//! Owns: its topics, one a file, and what they share.
//! Does not own: real clusters (`real`), the reference of keys (unit tests of the program).
//! Invariant: a test that changes what the endpoint says has it asked by `/update_clusters`, and so
//! waits for nothing but the answer.

mod api;
mod backend;
mod choice;
mod forwarding;
mod members;
mod operate;
mod pages;
mod proxy;
mod reload;
mod rest;
mod secure;

use backend::Backend;
use proxy::{Guest, Proxy, Setup};
use rest::{Answer, Rest, member};
