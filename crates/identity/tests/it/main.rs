//! The promises of hostler-identity, kept over real sockets.

mod agent;
mod certs;
mod client;
mod files;
mod handshake;
mod interop;
mod rotation;
mod rules;
mod server;
mod support;
mod workload;
