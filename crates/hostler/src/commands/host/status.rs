//! `hostler host status`, for people: what the host has, what runs VMs there, what guests reach.

use serde_json::Value;

use crate::commands::{Printing, host_or_only};
use crate::failure::Failure;
use crate::output::{self, Format, cell, plain};

use super::Perhaps;

pub(super) async fn status(perhaps: Perhaps) -> Result<(), Failure> {
    let api = perhaps.common.connect.open()?;
    let host = host_or_only(&api, perhaps.host).await?;
    let path = ["v1", "hosts", &host, "host", "status"];
    show(perhaps.common.printing, &api.get(&path).send().await?);
    Ok(())
}

fn show(printing: Printing, status: &Value) {
    match printing.output {
        Format::Json => output::json(status),
        Format::Table => output::table(&["FIELD", "VALUE"], &rows(status)),
    }
}

/// One fact in each row: nothing is a list of lists.
fn rows(status: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |field: &str, value: String| rows.push(vec![field.to_owned(), value]);
    for field in ["hostname", "arch", "version"] {
        row(field, cell(status, field));
    }
    row("up since boot", duration(&status["uptime_seconds"]));
    row("load average", plain(&status["load_average"]));
    let vms = (cell(status, "running_vms"), cell(status, "total_vms"));
    row("vms", format!("{} of {} running", vms.0, vms.1));
    for (field, unit) in [("cpus", ""), ("memory_mb", " MiB"), ("disk_mb", " MiB")] {
        let name = field.trim_end_matches("_mb");
        let of = |which: &str| cell(&status[which], field);
        let (total, used, left) = (of("total"), of("used"), of("available"));
        row(
            name,
            format!("{left}{unit} left for VMs, {used} reserved; the host has {total}"),
        );
    }
    for driver in status["drivers"].as_array().into_iter().flatten() {
        let kind = cell(driver, "kind");
        let version = driver["version"]
            .as_str()
            .map(|version| format!(" {version}"));
        let chosen = if driver["selected"] == true {
            ", in use"
        } else {
            ""
        };
        row(
            "driver",
            format!("{kind}{}{chosen}", version.unwrap_or_default()),
        );
        row("", cell(driver, "reason"));
        if let Some(capabilities) = driver["capabilities"].as_object() {
            let words = |able| {
                let able = capabilities.iter().filter(move |(_, can)| **can == able);
                able.map(|(name, _)| name.replace('_', " "))
                    .collect::<Vec<_>>()
            };
            row("", format!("can: {}", listed(&words(true))));
            row("", format!("cannot: {}", listed(&words(false))));
        }
    }
    let network = &status["network"];
    row("network", cell(network, "mode"));
    if let Some(guests) = network["user_mode"].as_object() {
        let kept = match guests.get("kept_from_host") {
            Some(Value::Bool(true)) => "guests are kept from the host",
            _ => "guests are NOT kept from the host",
        };
        row("", kept.to_owned());
        row("", plain(guests.get("reason").unwrap_or(&Value::Null)));
    }
    for (name, value) in network["bridge"].as_object().into_iter().flatten() {
        row(
            "",
            format!("bridge {}: {}", name.replace('_', " "), plain(value)),
        );
    }
    rows
}

fn listed(words: &[String]) -> String {
    match words {
        [] => "-".to_owned(),
        words => words.join(", "),
    }
}

fn duration(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_u64() else {
        return "-".to_owned();
    };
    let (minutes, hours, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    format!("{days} d {hours} h {minutes} min")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_fact_has_a_row_that_can_be_read() {
        let amounts = |cpus, memory_mb, disk_mb| json!({ "cpus": cpus, "memory_mb": memory_mb, "disk_mb": disk_mb });
        let status = json!({
            "hostname": "h", "arch": "x86_64", "version": "0.1.0", "uptime_seconds": 93_784,
            "load_average": [0.5, 0.25, 0.1], "running_vms": 1, "total_vms": 2,
            "total": amounts(2, 7_000, 90_000), "used": amounts(3, 512, 2_048),
            "available": amounts(5, 6_488, 80_000),
            "drivers": [
                { "kind": "firecracker", "selected": false, "reason": "no /dev/kvm" },
                {
                    "kind": "qemu", "selected": true, "version": "7.2", "reason": "it works",
                    "capabilities": { "snapshots": true, "user_network": true, "mounts": false }
                },
            ],
            "network": {
                "mode": "user", "user_mode": { "kept_from_host": false, "reason": "no root" }
            },
        });
        let rows = rows(&status);
        let told: Vec<String> = rows.iter().map(|row| row.join(" = ")).collect();
        for wanted in [
            "up since boot = 1 d 2 h 3 min",
            "load average = 0.5, 0.25, 0.1",
            "vms = 1 of 2 running",
            "cpus = 5 left for VMs, 3 reserved; the host has 2",
            "memory = 6488 MiB left for VMs, 512 reserved; the host has 7000",
            "driver = firecracker",
            " = no /dev/kvm",
            "driver = qemu 7.2, in use",
            " = can: snapshots, user network",
            " = cannot: mounts",
            " = guests are NOT kept from the host",
        ] {
            assert!(told.iter().any(|row| row == wanted), "{wanted}: {told:#?}");
        }
        assert!(
            !told
                .iter()
                .any(|row| row.contains("={") || row.contains("=[")),
            "{told:#?}"
        );
    }
}
