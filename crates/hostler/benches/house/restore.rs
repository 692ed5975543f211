//! From `hostler vm restore` to the guest's answer, beside `hostler vm start` to the same answer.
//!
//! Both begin with a VM that does not run, go through the same command line, control plane and
//! host, and end when the guest's own web server has answered somebody who asks as soon as the command
//! is done. Nobody asks before: a restored guest finds every question that was asked and given up
//! meanwhile in its network card, and answers those first, with its emulated processor.

use std::process::Stdio;
use std::time::Instant;

use crate::boot::until_answer;
use crate::fleet::Fleet;
use crate::server::free_port;
use crate::table::{Table, median};

const ROUNDS: usize = 9;
const VM: &str = "bench-restore";
const SNAPSHOT: &str = "answering";

pub(crate) fn measure(fleet: &Fleet, table: &mut Table) {
    fleet.ask(&["image", "pull"]);
    let port = free_port();
    let forward = format!("{port}:80");
    fleet.ask(&["vm", "create", VM, "--memory-mb", "256", "--port", &forward]);
    let timed = |arguments: &[&str]| {
        let begun = Instant::now();
        let mut command = fleet
            .command(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        assert!(
            command.wait().is_ok_and(|status| status.success()),
            "{arguments:?} failed"
        );
        until_answer(port, begun)
    };
    let stop = || drop(fleet.ask(&["vm", "stop", VM]));
    let start = ["vm", "start", VM];
    let restore = ["vm", "restore", VM, SNAPSHOT];

    // One round that counts for nobody: files are cold.
    timed(&start);
    let begun = Instant::now();
    let taken = fleet.ask(&["vm", "snapshot", VM, SNAPSHOT]);
    let taking = begun.elapsed().as_secs_f64();
    stop();
    timed(&restore);
    stop();

    let (mut starts, mut restores) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // In turns, so that a busy moment of the machine falls on both.
        starts.push(timed(&start));
        stop();
        restores.push(timed(&restore));
        stop();
    }
    fleet.ask(&["vm", "delete", VM, "--force"]);
    let (starts, restores) = (median(starts), median(restores));
    table.row(
        &format!("vm restore to HTTP answer, median of {ROUNDS} (vm start, 256 MiB of memory)"),
        format!("{restores:.2} s"),
        format!("{starts:.2} s"),
        format!("1 / {:.1}", starts / restores),
        "at most 1 / 5",
    );
    table.row(
        "vm snapshot of the same VM, as it runs",
        format!("{taking:.2} s, {} MiB", taken["size_mb"]),
        "-",
        "-",
        "-",
    );
}
