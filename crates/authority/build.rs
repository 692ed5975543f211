//! Generates the Workload API's messages and server from `proto/workload.proto`, in Rust alone:
//! no `protoc` is needed.

#![allow(
    clippy::print_stdout,
    reason = "a build script speaks to cargo through its standard output"
)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["workload.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        // In the order of their keys, so that equal messages have equal bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
