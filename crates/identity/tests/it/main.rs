//! The promises of hostler-identity, kept over real sockets.

mod agent;
mod certs;
mod chain;
mod client;
mod config;
mod document;
mod endpoint;
mod expiry;
mod files;
mod handshake;
mod ids;
mod interop;
mod jwt;
mod layer;
mod log;
mod quic;
mod refusals;
mod rotation;
mod rules;
mod server;
mod support;
mod workload;
