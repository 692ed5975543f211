//! The promises of hostler-identity, kept over real sockets.

mod agent;
mod certs;
mod client;
mod document;
mod files;
mod handshake;
mod interop;
mod jwt;
mod rotation;
mod rules;
mod server;
mod support;
mod workload;
