//! How much, how many, how often, how long. Every number that keeps one caller from hurting the
//! others.

use std::num::NonZeroU32;
use std::time::Duration;

use hostler_operations::rate::Rate;

/// Requests a second.
const STRANGERS: NonZeroU32 = NonZeroU32::new(50).unwrap();
const CALLERS: NonZeroU32 = NonZeroU32::new(500).unwrap();

/// What one request may take, whichever transport brings it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestLimits {
    /// The largest body, in bytes; a larger one is answered 413. Default 1 MiB.
    pub body_bytes: usize,
    /// The bytes of all bodies that are being read at one time; above it the answer is 503, so
    /// that a crowd of large requests costs memory up to here and no further. Default 64 MiB.
    pub bodies_total_bytes: usize,
    /// The memory that frames of the call protocol take, in bytes, until they have ended and their
    /// calls have; small ones are not counted. Half of it is for those who have not said who they
    /// are. Above it a stream that brings another is reset. Default 128 MiB.
    pub frames_total_bytes: usize,
    /// How long a body may take to arrive; a later one is answered 408. A frame of the call protocol
    /// has as long; the stream of a later one is reset. Default 30 s.
    pub body_time: Duration,
    /// How often one address (a /64 of IPv6) may ask without proving who it is; above it the answer
    /// is 429, and a call of the call protocol fails with `RATE_LIMITED`. `None`: as often as it
    /// likes. Default 50 requests a second, 500 at once.
    pub strangers: Option<Rate>,
    /// How often one identity may ask; likewise. Default 500 requests a second, 5,000 at once.
    pub callers: Option<Rate>,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            bodies_total_bytes: 64 << 20,
            frames_total_bytes: 128 << 20,
            body_time: Duration::from_secs(30),
            strangers: Some(Rate::per_second(STRANGERS)),
            callers: Some(Rate::per_second(CALLERS)),
        }
    }
}

/// What one door and each of its connections may take.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DoorLimits {
    /// Connections at one time; further ones wait in the kernel's queue. Default 4096.
    pub connections: usize,
    /// Those of one address (a /64 of IPv6) among them; further ones are cut off. Default 1024.
    pub connections_per_address: usize,
    /// For the TLS handshake. Default 10 s.
    pub handshake_time: Duration,
    /// For the head of an HTTP/1.1 request, from its first byte. Default 30 s.
    pub head_time: Duration,
    /// For writing an answer; for each piece of one that is a stream. Default 60 s.
    pub write_time: Duration,
    /// How long a connection without a request is kept. Default 120 s.
    pub idle_time: Duration,
    /// How long what is in flight may take to finish after the door was told to close. Default
    /// 30 s.
    pub drain_time: Duration,
    /// The size of a request's head (all headers together), in bytes. Default 32 KiB.
    pub head_bytes: usize,
    /// The number of headers in an HTTP/1.1 request. Default 100.
    pub headers: usize,
    /// Requests at one time on one HTTP/2 connection. Default 128.
    pub streams: u32,
    /// Calls at one time in one direction of one conversation of the call protocol. Default 256.
    pub calls: usize,
    /// Streams that a client opened and reset before they were looked at; more than these end the
    /// connection (the rapid-reset attack, CVE-2023-44487). Default 32.
    pub reset_streams: usize,
    /// How often a silent HTTP/2 client is asked whether it still lives; it has as long again
    /// to say something, whatever it is. Default 20 s.
    pub ping_interval: Duration,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            handshake_time: Duration::from_secs(10),
            head_time: Duration::from_secs(30),
            write_time: Duration::from_secs(60),
            idle_time: Duration::from_secs(120),
            drain_time: Duration::from_secs(30),
            head_bytes: 32 << 10,
            headers: 100,
            streams: 128,
            calls: 256,
            reset_streams: 32,
            ping_interval: Duration::from_secs(20),
        }
    }
}
