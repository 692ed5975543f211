//! The migrations are compiled in; a new file among them must be noticed.

#![allow(
    clippy::print_stdout,
    reason = "a build script speaks to cargo through its standard output"
)]

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
