//! The one table that a run prints.

use std::process::Command;

#[derive(Default)]
pub(crate) struct Table(Vec<[String; 5]>);

impl Table {
    pub(crate) fn row(
        &mut self,
        what: &str,
        ours: impl Into<String>,
        peer: impl Into<String>,
        ratio: impl Into<String>,
        asked: &str,
    ) {
        self.0.push([
            what.into(),
            ours.into(),
            peer.into(),
            ratio.into(),
            asked.into(),
        ]);
    }

    #[allow(clippy::print_stdout, reason = "the table is what this program is for")]
    pub(crate) fn print(&self) {
        // Of several programs that run after one another, the first one prints the heading.
        if std::env::var_os("HOSTLER_BENCH_CONTINUED").is_none() {
            println!("\n{}\n", machine());
            println!("| what | hostler | peer | ratio | asked |");
            println!("|---|---|---|---|---|");
        }
        for [what, ours, peer, ratio, asked] in &self.0 {
            println!("| {what} | {ours} | {peer} | {ratio} | {asked} |");
        }
    }
}

/// The day and the machine's shape, without which a figure means nothing.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1))
            .unwrap_or("unknown")
            .to_owned()
    };
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = read("/proc/meminfo");
    let kib = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let qemu = qemu
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d");
    format!(
        "{today}, {cores} x {}, {} GiB, Linux {}, {}",
        field("model name"),
        kib.unwrap_or(0) >> 20,
        read("/proc/sys/kernel/osrelease").trim(),
        qemu.lines().next().unwrap_or("no QEMU"),
    )
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
