//! Builds the program that runs inside microVMs, so that it can be part of this crate.
//!
//! It has to be static, with a panic that aborts, and small: settings that belong to it alone. So
//! it is built by a cargo of its own, in a target directory of its own (the outer cargo holds the
//! lock of the usual one), with nothing inherited from the outer build but the toolchain.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "hostler-guest";

fn main() {
    // Set by cargo-fuzz for all that it compiles.
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let workspace = manifest_dir
        .ancestors()
        .nth(2)
        .expect("this crate is in crates/ of a workspace");
    let target = variable("TARGET");
    let target_dir = Path::new(&variable("OUT_DIR")).join("guest");
    for input in ["src", "Cargo.toml"] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join("crates/guest").join(input).display()
        );
    }

    let mut cargo = Command::new(variable("CARGO"));
    // Flags, wrappers and profiles of the outer build (such as clippy's) are not for the guest.
    for (name, _) in env::vars_os() {
        let outer = [
            "CARGO_BUILD_",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PROFILE_",
            "CARGO_TARGET_",
        ];
        let text = name.to_string_lossy();
        if outer.iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    let status = cargo
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .args(["build", "--locked", "--release", "--package", PACKAGE])
        .args(["--target", &target])
        .arg("--manifest-path")
        .arg(workspace.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .status()
        .expect("cargo runs, since it runs this");
    assert!(
        status.success(),
        "the program for guests was not built; a static one needs the C library's static half \
         (Debian: apt-get install libc6-dev)"
    );
    let program = target_dir.join(target).join("release").join(PACKAGE);
    println!(
        "cargo::rustc-env=HOSTLER_GUEST_PROGRAM={}",
        program.display()
    );
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
