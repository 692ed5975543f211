//! What a fleet promises: real databases, real certificates, and hosts that are real servers behind
//! mutual TLS.

/// On which database a test's books are; `tests/postgres` has them on the other.
const ON_POSTGRES: bool = false;

mod audit;
mod cluster;
mod desk;
mod enrolment;
mod entries;
mod guard;
mod hosts;
mod identity;
mod isolation;
mod members;
mod monitor;
mod placement;
mod power_cut;
mod snapshots;
mod standin;
mod storage;
mod streams;
mod token_keys;
mod users;
mod vms;
mod watch;
