//! The call protocol over QUIC: operations called in both directions over streams.
//!
//! The rules of the protocol are `hostler_operations::protocol`, which knows no socket; this room
//! is the ring around it. A [`Conversation`](conversation::Conversation) owns one
//! [`End`](hostler_operations::protocol::End) and the streams of one [`Link`](link::Link); each
//! [stream](stream) is a task that reads and writes; an [`Outbox`](outbox::Outbox) is what waits to
//! be written on it; [`Answering`](answering::Answering) walks an incoming call to its operation;
//! a [`Caller`] makes calls of one's own.
//!
//! It is carried by a connection of its own (ALPN `hostler/call`) or by a WebTransport session, where
//! a browser can call too.
//!
//! A door serves it with [`Door::with_calls`](crate::Door::with_calls), and a program that has no
//! door comes with a [`CallClient`]. Both ends may call: whoever is called back answers with a
//! registry of its own.
//!
//! What one peer can make this end keep is bounded everywhere: calls at one time, bytes of frames
//! that have not ended, bytes of answers that are not taken. What is full makes its own stream
//! wait, and what waits too long ends its own stream.

mod adapter;
mod answering;
mod budget;
mod caller;
mod client;
mod conversation;
mod datagrams;
mod link;
mod outbox;
mod stream;
pub(crate) mod varint;

pub use adapter::CallAdapter;
pub use caller::{Caller, Subscription};
pub use client::{CallClient, CallClientBuilder, CallClientError};
pub(crate) use link::{Link, Reason, SESSION_STREAM, Session};

/// How a connection says that it speaks the protocol (ALPN, RFC 7301).
pub(crate) const ALPN: &[u8] = b"hostler/call";
