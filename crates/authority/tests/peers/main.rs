//! Peers that nobody here wrote: what others' programs and libraries make of our Workload API, our
//! certificates, our server and our client, and what they refuse.
//!
//! Python's `spiffe` and `spiffe-tls`, the crates `spiffe` and `spiffe-rustls`, curl, openssl and
//! nginx, each as it comes. A program that is missing fails its test and says what to install;
//! `./test` installs them all.

mod curl;
mod house;
mod nginx;
mod openssl;
mod programs;
mod python;
mod spiffe_rustls;
