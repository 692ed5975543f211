//! End to end: the built binary, real processes, real sockets, real guests.
//!
//! `house` keeps the shape of the workspace; the other modules run `hostler` as its users do.

mod cli;
mod doors;
mod faults;
mod house;
mod identity;
mod life;
mod mcp;
mod rest;
mod support;
mod svid;
mod workload;
