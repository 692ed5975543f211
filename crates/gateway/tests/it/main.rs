//! A bookshelf behind a real door: TLS sockets, HTTP/1.1 and HTTP/2, and bytes that are neither.

mod access;
mod answers;
mod behind;
mod calls;
mod conformance;
mod decoy;
mod document;
mod door;
mod endings;
mod frames;
mod from_openapi;
mod hostile;
mod http2;
mod http3;
mod inputs;
mod log;
mod mcp;
mod rates;
mod shelf;
mod streams;
mod webtransport;
mod world;
