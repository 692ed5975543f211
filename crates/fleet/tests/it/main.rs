//! What a fleet promises: real databases, real certificates, and hosts that are real servers behind
//! mutual TLS.

mod desk;
mod enrolment;
mod entries;
mod hosts;
mod identity;
mod isolation;
mod monitor;
mod power_cut;
mod snapshots;
mod standin;
mod storage;
mod streams;
mod vms;
