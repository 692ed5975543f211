//! The inside of a VM through the whole house: the command line, the control plane, the host, the
//! guest, and back.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::support::{Agent, PATIENCE, Plane, hostler, wait_for};

/// Secrets that go into a guest and must be in no log.
const SECRET_INPUT: &str = "open-sesame-input";
const SECRET_VARIABLE: &str = "open-sesame-variable";

fn client(plane: &Plane, arguments: &[&str]) -> Command {
    let mut command = hostler();
    command.args(arguments).env("HOSTLER_TOKEN", plane.key());
    command
        .env("HOSTLER_SERVER", plane.url())
        .env("HOSTLER_CA", plane.ca());
    command
}

fn fed(plane: &Plane, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = client(plane, arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    let _ = feeding.join().expect("it is fed");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_inside_of_a_vm_is_reached_through_the_whole_house() {
    let mut plane = Plane::start();
    let mut agent = plane.enrol("host");
    plane.ask(&["image", "pull"]);
    plane.ask(&["vm", "create", "demo", "--memory-mb", "256", "--start"]);

    // At once: it waits until the guest is up.
    let uname = plane.cli(&["vm", "exec", "demo", "--", "uname", "-a"]);
    let told = text(&uname.stderr);
    assert!(
        text(&uname.stdout).starts_with("Linux demo "),
        "{told}\n{}",
        agent.log()
    );
    assert_eq!((uname.status.code(), told.as_str()), (Some(0), ""));

    commands_end_here_as_they_end_there(&plane);
    input_goes_in_and_output_comes_out(&plane);
    much_output_takes_little_memory(&mut plane, &mut agent);
    who_leaves_takes_the_command_along(&plane);
    a_terminal_works_and_is_given_back(&plane);
    files_are_copied_whole(&plane);
    the_console_is_shown(&plane);
    programs_reach_it_by_http(&plane);

    let logs = format!("{}{}", plane.log(), agent.log());
    assert!(logs.contains("vms/exec"));
    for secret in [SECRET_INPUT, SECRET_VARIABLE] {
        assert!(!logs.contains(secret), "{secret} is in a log");
    }
    plane.ask(&["vm", "stop", "demo"]);
    let stopped = plane.refused(&["vm", "exec", "demo", "--", "true"]);
    assert!(stopped.contains("demo is stopped; start it"), "{stopped}");
    plane.ask(&["vm", "delete", "demo"]);
}

fn commands_end_here_as_they_end_there(plane: &Plane) {
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["no-such-program"], 127),
        (&["/etc"], 126),
        (&["sh", "-c", "kill -KILL $$"], 137),
    ] {
        let output = plane.cli(&[&["vm", "exec", "demo", "--"], command].concat());
        assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
    }
    let missing = plane.cli(&["vm", "exec", "ghost", "--", "true"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("no VM \"ghost\""),
        "{missing:?}"
    );
    let usage = plane.cli(&["vm", "exec", "demo"]);
    assert_eq!(usage.status.code(), Some(2));
}

fn input_goes_in_and_output_comes_out(plane: &Plane) {
    let variable = format!("SECRET={SECRET_VARIABLE}");
    let shell = "echo out; echo err >&2; pwd; echo ${#SECRET}";
    let exec = ["vm", "exec", "demo", "-e", &variable, "--cwd", "/tmp"];
    let both = plane.cli(&[&exec[..], &["--", "sh", "-c", shell]].concat());
    let expected = format!("out\n/tmp\n{}\n", SECRET_VARIABLE.len());
    assert_eq!(
        (text(&both.stdout), text(&both.stderr)),
        (expected, "err\n".into())
    );

    let lines: String = (0..1000).map(|n| format!("{SECRET_INPUT} {n}\n")).collect();
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    for input in [lines.into_bytes(), bytes, Vec::new()] {
        let echoed = fed(plane, &["vm", "exec", "-i", "demo", "--", "cat"], &input);
        assert_eq!(echoed.status.code(), Some(0), "{}", text(&echoed.stderr));
        assert!(
            echoed.stdout == input,
            "{} bytes came back",
            echoed.stdout.len()
        );
    }
    // Without -i a command reads nothing, whatever there is.
    let nothing = fed(plane, &["vm", "exec", "demo", "--", "cat"], b"unread");
    assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(0), 0));
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().nth(1));
    kb.and_then(|kb| kb.parse().ok()).expect("a number")
}

fn much_output_takes_little_memory(plane: &mut Plane, agent: &mut Agent) {
    let daemons = [plane.daemon(), agent.daemon()];
    let pids = daemons.map(|daemon| daemon.as_ref().expect("it runs").pid());
    let before = pids.map(resident_kb);
    let much = [
        "vm",
        "exec",
        "demo",
        "--",
        "head",
        "-c",
        "10485760",
        "/dev/zero",
    ];
    assert_eq!(plane.cli(&much).stdout.len(), 10 << 20);
    // Nobody reads this one: it is kept waiting, not kept.
    let mut unread = client(plane, &["vm", "exec", "demo", "--", "yes"]);
    let mut unread = unread.stdout(Stdio::piped()).spawn().expect("it runs");
    assert_eq!(plane.cli(&much).stdout.len(), 10 << 20);
    for (pid, before) in pids.into_iter().zip(before) {
        let grown = resident_kb(pid).saturating_sub(before);
        assert!(
            grown < 8 * 1024,
            "10 MiB of output took {grown} KiB of memory"
        );
    }
    unread.kill().expect("killed");
    unread.wait().expect("reaped");
}

/// Whether something with these words among its arguments runs in the guest.
fn runs(plane: &Plane, what: &str) -> bool {
    let script = format!("ps -o args | grep '{what}' | grep -v grep");
    let found = plane.cli(&["vm", "exec", "demo", "--", "sh", "-c", &script]);
    found.status.code() == Some(0)
}

fn who_leaves_takes_the_command_along(plane: &Plane) {
    let mut command = client(plane, &["vm", "exec", "demo", "--", "sleep", "1234"]);
    let mut child = command.spawn().expect("it runs");
    wait_for("the command", || runs(plane, "^sleep 1234").then_some(()));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    wait_for("its end", || (!runs(plane, "^sleep 1234")).then_some(()));
}

/// A `hostler` on a terminal of its own.
struct OnTerminal {
    terminal: OwnedFd,
    theirs: OwnedFd,
    before: Termios,
    child: Child,
    shown: String,
}

impl OnTerminal {
    fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).expect("a terminal");
        unlockpt(&terminal).expect("unlocked");
        let theirs = ioctl_tiocgptpeer(&terminal, flags).expect("its other end");
        tcsetwinsize(&terminal, winsize(rows, columns)).expect("a size");
        let before = tcgetattr(&theirs).expect("its settings");
        Self {
            child: command
                .stdin(theirs.try_clone().expect("an end"))
                .stdout(theirs.try_clone().expect("an end"))
                .stderr(theirs.try_clone().expect("an end"))
                .env("TERM", "vt100")
                .spawn()
                .expect("it runs"),
            terminal,
            theirs,
            before,
            shown: String::new(),
        }
    }

    fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.theirs).expect("its settings");
        format!("{now:?}") == format!("{:?}", self.before)
    }

    fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.terminal, winsize(rows, columns)).expect("a size");
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args(["-s", "WINCH", &pid]).status();
        assert!(told.expect("kill runs").success());
    }

    fn say(&self, keys: &str) {
        rustix::io::write(&self.terminal, keys.as_bytes()).expect("typed");
    }

    /// Waits until this is shown, and forgets what was shown before it.
    fn until(&mut self, wanted: &str) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.shown.contains(wanted) {
            assert!(
                std::time::Instant::now() < deadline,
                "{wanted:?} is not in {:?}",
                self.shown
            );
            let mut ready = [PollFd::new(&self.terminal, PollFlags::IN)];
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            if poll(&mut ready, Some(&second)).expect("polled") > 0 {
                let mut bytes = [0; 4096];
                let length = rustix::io::read(&self.terminal, &mut bytes).expect("read");
                self.shown.push_str(&text(&bytes[..length]));
            }
        }
        let at = self.shown.find(wanted).expect("it is there") + wanted.len();
        self.shown.drain(..at);
    }
}

fn winsize(ws_row: u16, ws_col: u16) -> Winsize {
    Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn a_terminal_works_and_is_given_back(plane: &Plane) {
    let mut shell = OnTerminal::start(client(plane, &["vm", "shell", "demo"]), 33, 99);
    shell.until("# ");
    // Written so that its own echo is not taken for the answer.
    shell.say("echo ready-$((1+1)); stty size; echo $TERM\r");
    shell.until("ready-2\r\n");
    shell.until("33 99\r\nvt100\r\n");
    assert!(
        !shell.is_as_before(),
        "keys do not go to the guest as they are"
    );
    shell.resize(44, 111);
    wait_for("the new size", || {
        shell.say("stty size; echo look-$((2+2))\r");
        shell.until("look-4\r\n");
        let asked = plane.cli(&[
            "vm",
            "exec",
            "demo",
            "--",
            "stty",
            "-F",
            "/dev/pts/0",
            "size",
        ]);
        (text(&asked.stdout).trim() == "44 111").then_some(())
    });
    // Ctrl-C goes to what runs in there.
    shell.say("sleep 4321\r");
    wait_for("the command", || runs(plane, "^sleep 4321").then_some(()));
    shell.say("\x03");
    shell.say("echo alive-$((3+3)); exit 7\r");
    shell.until("alive-6\r\n");
    let status = wait_for("the shell's end", || {
        shell.child.try_wait().expect("a status")
    });
    assert_eq!(status.code(), Some(7));
    assert!(shell.is_as_before(), "the terminal was not given back");

    // Ended from outside, it gives the terminal back too.
    let mut shell = OnTerminal::start(client(plane, &["vm", "shell", "demo"]), 24, 80);
    shell.until("# ");
    shell.say("echo ready-$((1+1))\r");
    shell.until("ready-2\r\n");
    let pid = shell.child.id().to_string();
    let told = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(told.expect("kill runs").success());
    let status = wait_for("its end", || shell.child.try_wait().expect("a status"));
    assert_eq!(status.code(), Some(128 + 15));
    assert!(shell.is_as_before(), "the terminal was not given back");

    let refused = plane.refused(&["vm", "shell", "demo"]);
    assert!(refused.contains("needs a terminal"), "{refused}");
}

fn files_are_copied_whole(plane: &Plane) {
    let (file, back) = (plane.path("a file"), plane.path("back"));
    // Two pieces and a bit, and one whose end is a piece's end.
    for length in [1_200_000, 2 * 524_288, 0] {
        let content: Vec<u8> = (0..length).map(|n: u32| (n % 241) as u8).collect();
        std::fs::write(&file, &content).expect("written");
        let here = file.to_str().expect("text");
        let there = plane.cli(&["vm", "cp", here, "demo:/tmp/"]);
        assert_eq!(there.status.code(), Some(0), "{there:?}");
        let out = back.to_str().expect("text");
        let again = plane.cli(&["vm", "cp", "demo:/tmp/a file", out]);
        assert_eq!(again.status.code(), Some(0), "{again:?}");
        assert!(std::fs::read(&back).expect("read") == content);
    }
    let hosts = plane.cli(&["vm", "cp", "demo:/etc/hosts", "-"]);
    assert!(text(&hosts.stdout).contains("127.0.0.1"));
    let left = plane.cli(&[
        "vm",
        "exec",
        "demo",
        "--",
        "sh",
        "-c",
        "ls -A /tmp | grep hostler",
    ]);
    assert_eq!(left.status.code(), Some(1), "{left:?}");

    let missing = plane.refused(&["vm", "cp", "demo:/no/such", "x"]);
    assert!(
        missing.contains("No such file") && missing.contains("404"),
        "{missing}"
    );
    let neither = plane.refused(&["vm", "cp", "a", "b"]);
    assert!(neither.contains("NAME:/path"), "{neither}");
}

fn the_console_is_shown(plane: &Plane) {
    let mut command = client(plane, &["vm", "logs", "demo", "-f"]);
    let mut following = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let shell = |script| plane.cli(&["vm", "exec", "demo", "--", "sh", "-c", script]);
    shell("echo a-mark >/dev/console");
    wait_for("the mark", || {
        let shown = plane.cli(&["vm", "logs", "demo", "--lines", "5"]);
        text(&shown.stdout).contains("a-mark").then_some(())
    });
    let mut stdout = following.stdout.take().expect("its output");
    let (sender, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut bytes) {
            let _ = sender.send(text(&bytes[..length]));
        }
    });
    let mut shown = String::new();
    while !shown.contains("a-mark") {
        let more = heard.recv_timeout(PATIENCE).expect("it is followed");
        shown.push_str(&more);
    }
    following.kill().expect("killed");
    following.wait().expect("reaped");
}

fn programs_reach_it_by_http(plane: &Plane) {
    let run =
        r#"{"argv":["sh","-c","read x; echo \"got $x\"; echo no >&2; exit 3"],"stdin":"yes\n"}"#;
    let ran = plane
        .curl(Some(plane.key()), &["--json", run], "/v1/vms/demo/run")
        .json();
    assert_eq!(
        (&ran["exit_code"], &ran["timed_out"]),
        (&3.into(), &false.into())
    );
    assert_eq!(
        (&ran["stdout"], &ran["stderr"]),
        (&"got yes\n".into(), &"no\n".into())
    );
    let slow = r#"{"argv":["sleep","999"],"timeout_secs":1}"#;
    let killed = plane
        .curl(Some(plane.key()), &["--json", slow], "/v1/vms/demo/run")
        .json();
    assert_eq!(
        (&killed["signal"], &killed["timed_out"]),
        (&9.into(), &true.into())
    );
    let wrong = r#"{"argv":[]}"#;
    let wrong = plane.curl(Some(plane.key()), &["--json", wrong], "/v1/vms/demo/run");
    assert_eq!((wrong.status, &*wrong.code()), (400, "invalid_request"));

    let events = plane.curl(
        Some(plane.key()),
        &[
            "--json",
            r#"{"argv":["echo","hi"]}"#,
            "--header",
            "Accept: text/event-stream",
        ],
        "/v1/vms/demo/exec",
    );
    let data: Vec<serde_json::Value> = events
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect();
    assert_eq!(
        data.first().map(|event| &event["type"]),
        Some(&"started".into())
    );
    assert_eq!(data.last().map(|event| &event["code"]), Some(&0.into()));
    assert!(data.iter().any(|event| event["data"] == "aGkK"), "{data:?}");
}
