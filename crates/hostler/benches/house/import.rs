//! An image of 1 GiB from an OCI layout, beside what does the same by hand: `skopeo copy`,
//! `umoci unpack` and `mke2fs -d`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::fleet::Fleet;
use crate::host::init_in;
use crate::table::{Table, median};

const ROUNDS: usize = 3;
const MIB: usize = 1 << 20;
/// Of each half, in files of 8 MiB.
const LARGE: usize = 64;

pub(crate) fn measure(fleet: &Fleet, table: &mut Table) {
    let workshop = tempfile::tempdir().expect("a directory");
    let at = |name: &str| workshop.path().join(name).display().to_string();
    fill(&workshop.path().join("tree"));
    let image = format!("{}:1", at("layout"));
    run("umoci", &["init", "--layout", &at("layout")]);
    run("umoci", &["new", "--image", &image]);
    run(
        "umoci",
        &["insert", "--rootless", "--image", &image, &at("tree"), "/"],
    );
    fs::remove_dir_all(at("tree")).expect("it is there");

    let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
    let mut peak: f64 = 0.0;
    for round in 0..ROUNDS * 2 {
        // In turns, so that a busy moment of the machine falls on both.
        if round % 2 == 0 {
            forget_peak(fleet.agent_pid());
            let begun = Instant::now();
            fleet.ask(&["image", "import", &image, "--name", "bench"]);
            ours.push(begun.elapsed().as_secs_f64());
            peak = peak.max(peak_mib(fleet.agent_pid()));
            fleet.ask(&["image", "delete", "bench"]);
        } else {
            let begun = Instant::now();
            let copy = format!("oci:{}:1", at("copy"));
            run(
                "skopeo",
                &[
                    "--insecure-policy",
                    "copy",
                    "-q",
                    &format!("oci:{image}"),
                    &copy,
                ],
            );
            let (copy, bundle) = (format!("{}:1", at("copy")), at("bundle"));
            run(
                "umoci",
                &["unpack", "--rootless", "--image", &copy, &bundle],
            );
            let root = format!("{bundle}/rootfs");
            run(
                "mke2fs",
                &["-q", "-t", "ext4", "-d", &root, &at("root.ext4"), "1400m"],
            );
            run("sync", &[&at("root.ext4")]);
            by_hand.push(begun.elapsed().as_secs_f64());
            for directory in ["copy", "bundle"] {
                fs::remove_dir_all(at(directory)).expect("it is there");
            }
            fs::remove_file(at("root.ext4")).expect("it is there");
        }
    }
    let (ours, by_hand) = (median(ours), median(by_hand));
    table.row(
        "import of a 1 GiB image (skopeo copy, umoci unpack, mke2fs -d)",
        format!("{ours:.1} s"),
        format!("{by_hand:.1} s"),
        format!("{:.2}", by_hand / ours),
        "at least 0.60 of the speed",
    );
    table.row(
        "most resident memory of the agent meanwhile",
        format!("{peak:.1} MiB"),
        "-",
        "-",
        "at most 64 MiB",
    );
}

/// Half of it cannot be compressed; the rest are two thousand small files and texts.
fn fill(tree: &Path) {
    let write = |path: String, content: &[u8]| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let mut file = fs::File::create(path).expect("a file");
        file.write_all(content).expect("room");
    };
    init_in(tree);
    let mut random = fs::File::open("/dev/urandom").expect("random bytes");
    let mut bytes = vec![0; 8 * MIB];
    for number in 0..LARGE {
        random.read_exact(&mut bytes).expect("random bytes");
        write(format!("random/{number}"), &bytes);
        let line = format!("this is line {number} of a text that says little in many words\n");
        let text: Vec<u8> = line.bytes().cycle().take(8 * MIB).collect();
        write(format!("text/{number}"), &text);
    }
    for number in 0..2000 {
        let text = format!("small file {number}\n").repeat(number % 300);
        write(format!("small/{}/{number}", number % 40), text.as_bytes());
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{program} {arguments:?} fails"
    );
}

/// Lets the kernel forget how much memory a process had at most (proc(5), `clear_refs`).
fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of ours");
}

fn peak_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.expect("VmHWM") / 1024.0
}
