//! `./bench`: this program beside its peers, in one run, as one table.
//!
//! Peers are what a user would run instead: a bare QEMU with the same command line, a bare axum
//! server with the same TLS. Absolute figures belong to the machine that they were measured on,
//! which the table names; the ratios are what to look at. Nothing here fails on a slow day.

mod bare;
mod boot;
#[path = "../../../authority/benches/identity/cpu.rs"]
mod cpu;
mod crowd;
mod fleet;
mod gateway;
#[path = "../../../fleet/tests/it/guard.rs"]
mod guard;
mod health;
mod host;
mod import;
mod many;
mod memory;
mod restore;
mod server;
mod share;
mod table;

use std::path::PathBuf;

use table::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match &arguments[..] {
        [_, role, certificate, key] if role == bare::ROLE => return bare::serve(certificate, key),
        [_, role, directory] if role == gateway::OPERATIONS => {
            return gateway::serve_operations(directory.as_ref());
        }
        [_, role, directory] if role == gateway::BARE => {
            return gateway::serve_bare(directory.as_ref());
        }
        _ => {}
    }
    // cargo passes --bench; whatever else is there chooses rows.
    let chosen: Vec<&str> = arguments[1..]
        .iter()
        .filter(|a| !a.starts_with("--"))
        .map(String::as_str)
        .collect();
    let wanted = |row: &str| chosen.is_empty() || chosen.contains(&row);

    let mut table = Table::default();
    if wanted("boot") || wanted("memory") || wanted("restore") || wanted("import") {
        let fleet = fleet::Fleet::start();
        if wanted("memory") {
            memory::measure(&fleet, &mut table);
        }
        if wanted("boot") {
            boot::measure(&fleet, &mut table);
        }
        if wanted("import") {
            import::measure(&fleet, &mut table);
        }
        if wanted("restore") {
            restore::measure(&fleet, &mut table);
        }
    }
    if wanted("share") {
        share::measure(&mut table);
    }
    if wanted("many") {
        many::measure(&mut table);
    }
    if wanted("health") {
        health::measure(&mut table);
    }
    if wanted("gateway") {
        gateway::measure(&mut table);
    }
    // It takes half an hour, so only who names it gets it.
    if chosen.contains(&"fleet") {
        crowd::measure(&mut table, &chosen);
    }
    if wanted("quickstart") {
        quickstart(&mut table);
    }
    table.print();
}

/// The second run on a warm machine.
fn quickstart(table: &mut Table) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seconds = 0.0;
    for _ in 0..2 {
        let begun = std::time::Instant::now();
        let status = std::process::Command::new(root.join("quickstart"))
            .arg("--check")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "./quickstart --check fails; run it by itself"
        );
        seconds = begun.elapsed().as_secs_f64();
    }
    table.row(
        "second ./quickstart --check",
        format!("{seconds:.1} s"),
        "-",
        "-",
        "at most 20 s",
    );
}
