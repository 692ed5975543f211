//! The promises of hostler-authority, kept with real files, certificates and sockets.

mod bundle;
mod federation;
mod jwt;
mod opening;
mod rotation;
mod signing;
mod source;
mod support;
mod web;
mod workload_api;
