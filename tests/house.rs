//! The rooms of the house and the doors between them: who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each room and the rooms that it may know. `guest` is no room: it runs inside a VM; the examples
/// are what a visitor would build.
const DOORS: [(&str, &[&str]); 10] = [
    ("hostler-identity", &[]),
    ("hostler-operations", &[]),
    ("hostler-vmm", &[]),
    ("hostler-guest", &[]),
    ("hostler-authority", &["hostler-identity"]),
    ("mtls-examples", &["hostler-identity", "hostler-authority"]),
    (
        "hostler-gateway",
        &["hostler-identity", "hostler-operations"],
    ),
    (
        "hostler-host",
        &["hostler-vmm", "hostler-operations", "hostler-identity"],
    ),
    (
        "hostler-fleet",
        &[
            "hostler-operations",
            "hostler-identity",
            "hostler-authority",
        ],
    ),
    (
        "hostler",
        &[
            "hostler-identity",
            "hostler-authority",
            "hostler-operations",
            "hostler-gateway",
            "hostler-vmm",
            "hostler-host",
            "hostler-fleet",
        ],
    ),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// Every package of the workspace and the packages of the workspace that it depends on, in
/// whatever way: for the program, for its tests or for its build.
fn rooms() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let members: BTreeSet<String> = packages.iter().map(name).collect();
    let knows = |package: &Value| {
        let dependencies = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter();
        dependencies
            .map(name)
            // A room's tests may turn its own features on, which looks like a door to itself.
            .filter(|n| members.contains(n) && *n != name(package))
            .collect()
    };
    packages
        .iter()
        .map(|package| (name(package), knows(package)))
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let rooms = rooms();
    let planned: BTreeSet<&str> = DOORS.iter().map(|(room, _)| *room).collect();
    let built: BTreeSet<&str> = rooms.keys().map(String::as_str).collect();
    assert_eq!(planned, built, "the house has other rooms than planned");
    for (room, may_know) in DOORS {
        for known in &rooms[room] {
            assert!(
                may_know.contains(&known.as_str()),
                "{room} must not know {known}"
            );
        }
    }
}

#[test]
fn every_room_obeys_the_lints_of_the_house() {
    for package in metadata()["packages"].as_array().expect("packages") {
        let manifest = package["manifest_path"].as_str().expect("a path");
        let text = std::fs::read_to_string(manifest).expect("a manifest");
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{manifest} has lints of its own"
        );
        for field in ["license", "rust_version", "description", "repository"] {
            let set = package[field]
                .as_str()
                .is_some_and(|value| !value.is_empty());
            assert!(set, "{manifest} has no {field}");
        }
    }
}

#[test]
fn one_cryptography_and_no_second_one() {
    let lock = include_str!("../Cargo.lock");
    let graph = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--edges=normal,build",
            "--prefix=none",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let graph = String::from_utf8_lossy(&graph.stdout);
    assert!(lock.contains("name = \"aws-lc-rs\"") && graph.contains("aws-lc-rs "));
    for unwanted in ["ring v", "openssl v", "native-tls v"] {
        let found = graph.lines().any(|line| line.starts_with(unwanted));
        assert!(!found, "{unwanted} is in the graph");
    }
}
