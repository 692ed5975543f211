//! End to end: the built binary, real processes, real sockets, real guests.
//!
//! `house` keeps the shape of the workspace; the other modules run `hostler` as its users do.

mod attach;
mod calls;
mod chaos;
mod cli;
mod document;
mod doors;
mod faults;
#[path = "../crates/fleet/tests/it/guard.rs"]
mod guard;
mod host_door;
mod house;
mod identity;
mod inside;
mod life;
mod mcp;
mod people;
#[path = "../crates/fleet/tests/it/postgres.rs"]
mod postgres;
#[path = "../crates/fleet/tests/it/redis_server.rs"]
mod redis_server;
mod rest;
mod reverse;
mod standalone;
mod support;
mod svid;
mod under_load;
mod workload;
