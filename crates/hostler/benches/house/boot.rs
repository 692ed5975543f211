//! From `hostler vm start` to the guest's answer, beside a bare QEMU with the same command line.
//!
//! The bare one is started by the very arguments that `hostler` gave to its QEMU, so the difference
//! is ours alone: the command, two TLS connections, the control plane, the host, the driver.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::table::{Table, median};

const ROUNDS: usize = 15;
const VM: &str = "bench";
/// How often an answer is asked for. A forward accepts long before its guest listens, and what was
/// asked then is never answered.
const EVERY: Duration = Duration::from_millis(25);
/// How long one that asked waits. An emulated guest takes a tenth of a second for its first answer; who
/// gives up sooner leaves it with work for nobody.
const ATTEMPT: Duration = Duration::from_millis(150);

pub(crate) fn measure(fleet: &Fleet, table: &mut Table) {
    fleet.ask(&["image", "pull"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    drop(listener);
    let forward = format!("{port}:80");
    fleet.ask(&["vm", "create", VM, "--memory-mb", "256", "--port", &forward]);

    // One round that counts for nobody: files are cold.
    fleet.ask(&["vm", "start", VM]);
    until_answer(port, Instant::now());
    let arguments = arguments_of_qemu(&fleet.agent_data());
    fleet.ask(&["vm", "stop", VM]);

    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS * 2 {
        // In turns, so that a busy moment of the machine falls on both; and not always the same one
        // first.
        if (round + round / 2) % 2 == 0 {
            let begun = Instant::now();
            let mut start = fleet
                .command(&["vm", "start", VM])
                .stdout(Stdio::null())
                .spawn()
                .expect("it runs");
            ours.push(until_answer(port, begun));
            assert!(
                start.wait().is_ok_and(|status| status.success()),
                "vm start failed"
            );
            fleet.ask(&["vm", "stop", VM]);
        } else {
            let begun = Instant::now();
            let mut qemu = Command::new(&arguments[0])
                .args(&arguments[1..])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("QEMU runs");
            bare.push(until_answer(port, begun));
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }
    fleet.ask(&["vm", "delete", VM, "--force"]);
    let machine = arguments.iter().position(|a| a == "-M" || a == "-machine");
    let machine = machine
        .and_then(|at| arguments.get(at + 1))
        .map_or("?", String::as_str);
    let machine = machine.split(',').next().unwrap_or(machine);
    let ratios = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare);
    let ratio = median(ratios.collect());
    let (ours, bare) = (median(ours), median(bare));
    table.row(
        &format!("vm start to HTTP answer, median of {ROUNDS} (bare QEMU, {machine})"),
        format!("{ours:.2} s"),
        format!("{bare:.2} s"),
        format!("{ratio:.2}"),
        "at most 1.05",
    );
}

/// Seconds until the guest answers a request.
pub(crate) fn until_answer(port: u16, begun: Instant) -> f64 {
    let (tell, answered) = mpsc::channel();
    loop {
        let tell = tell.clone();
        std::thread::spawn(move || {
            if answers(port) {
                // Another one may have been answered before.
                let _ = tell.send(Instant::now());
            }
        });
        if let Ok(at) = answered.recv_timeout(EVERY) {
            return (at - begun).as_secs_f64();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "the guest does not answer"
        );
    }
}

/// Only a line of HTTP counts.
fn answers(port: u16) -> bool {
    let attempt = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    attempt().unwrap_or(false)
}

/// The command line of the QEMU that runs from this data directory.
fn arguments_of_qemu(data: &Path) -> Vec<String> {
    let data = data.to_str().expect("text");
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines
        .map(|line| {
            let words = line
                .split(|byte| *byte == 0)
                .filter(|word| !word.is_empty());
            words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect::<Vec<_>>()
        })
        .find(|words| {
            words
                .first()
                .is_some_and(|program| program.contains("qemu-system"))
                && words.iter().any(|word| word.contains(data))
        })
        .expect("a QEMU runs")
}
