//! Our own share of creating and starting a VM: what passes between the request and the answer, but
//! for the time that the VM's process takes to come up, which the host writes into its log.

use serde_json::Value;

use crate::host::{Host, millis, percentile};
use crate::table::{Table, median};

const ROUNDS: usize = 100;

pub(crate) fn measure(table: &mut Table) {
    let host = Host::start();
    let mut whole = Vec::new();
    for round in 0..=ROUNDS {
        let body = format!(r#"{{"name":"vm-{round}","memory_mb":128,"disk_size_mb":256}}"#);
        let (created, _) = millis(|| host.post("/v1/vms", &body));
        let (started, _) = millis(|| host.post(&format!("/v1/vms/vm-{round}/start"), "{}"));
        host.delete(&format!("/v1/vms/vm-{round}?force=true"));
        whole.push(created + started);
    }
    let log = host.log();
    let process = |line: &Value| line["fields"]["vmm_ms"].as_f64();
    let process: Vec<f64> = log.iter().filter_map(process).collect();
    assert_eq!(process.len(), whole.len(), "the log tells of each start");
    // The first round counts for nobody: files are cold.
    let ours = whole
        .iter()
        .zip(&process)
        .skip(1)
        .map(|(whole, vmm)| whole - vmm);
    let mut ours: Vec<f64> = ours.collect();
    table.row(
        &format!("own share of create + start, 99th percentile of {ROUNDS} (median)"),
        format!("{:.1} ms", percentile(&mut ours, 99)),
        format!("{:.1} ms", median(ours)),
        "-",
        "at most 60 ms",
    );
}
