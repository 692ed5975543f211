//! What must hold of anything that a stranger can send, whatever it is: one module for each crate
//! that reads it.
//!
//! Each function takes bytes and panics when a promise is broken: that nothing panics, and what
//! each says of itself. libFuzzer calls them with what it makes up; the test `corpus` of each crate
//! calls them with what is kept in `corpus/`.

pub mod gateway;
pub mod identity;
pub mod operations;

pub use hostler_vmm::fuzzing as vmm;
