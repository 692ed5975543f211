//! The inside of a VM: commands, terminals, files, the clock, the console. One guest for all of it,
//! because a boot takes seconds.

mod reopening;

use std::time::{Duration, Instant};

use hostler_vmm::{
    Command, CommandEnding, ExecEvent, Execution, FilePlace, FileWrite, Finished, GuestError,
    GuestProblem, Machines, PIECE_BYTES, RunCommand, TerminalSize,
};

use crate::support::{Host, PATIENCE, small};

const VM: &str = "inside";

struct Inside<'a>(&'a Machines);

fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        ..Command::default()
    }
}

fn run(command: Command) -> RunCommand {
    RunCommand {
        command,
        stdin: Vec::new(),
        timeout: PATIENCE,
        max_output_bytes: 1 << 20,
    }
}

impl Inside<'_> {
    async fn run(&self, argv: &[&str]) -> Finished {
        self.0.run(VM, run(command(argv))).await.unwrap()
    }

    /// What a shell prints.
    async fn shell(&self, script: &str) -> String {
        let finished = self.run(&["sh", "-c", script]).await;
        assert_eq!(
            finished.ending,
            Some(CommandEnding::Exited(0)),
            "{finished:?}"
        );
        String::from_utf8(finished.stdout)
            .unwrap()
            .trim()
            .to_owned()
    }

    async fn exec(&self, argv: &[&str], terminal: Option<TerminalSize>) -> Execution {
        let command = Command {
            terminal,
            ..command(argv)
        };
        self.0.exec(VM, command).await.unwrap()
    }

    async fn until_there(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        let script = format!("ps -o args | grep '^{what}' || true");
        while self.shell(&script).await.is_empty() {
            assert!(Instant::now() < deadline, "it never runs");
        }
    }

    async fn until_gone(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        let script = format!("ps -o args | grep '{what}' | grep -v grep || true");
        while !self.shell(&script).await.is_empty() {
            assert!(Instant::now() < deadline, "it still runs");
        }
    }
}

/// Waits until a command has written something.
async fn until(execution: &mut Execution, wanted: &str) -> String {
    let mut written = String::new();
    while !written.contains(wanted) {
        let event = tokio::time::timeout(PATIENCE, execution.next()).await;
        match event.expect("it goes on").unwrap() {
            Some(ExecEvent::Stdout(data)) => written.push_str(&String::from_utf8_lossy(&data)),
            other => panic!("{other:?} after {written:?}"),
        }
    }
    written
}

async fn end(execution: &mut Execution) -> (Vec<u8>, Option<ExecEvent>) {
    let (mut written, mut last) = (Vec::new(), None);
    loop {
        let event = tokio::time::timeout(PATIENCE, execution.next()).await;
        match event.expect("it goes on").unwrap() {
            Some(ExecEvent::Stdout(data)) => written.extend(data),
            None => return (written, last),
            event => last = event,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_what_it_is_asked() {
    let host = Host::new().await;
    host.machines.create(small(VM)).await.unwrap();
    let stopped = host.machines.run(VM, run(command(&["true"]))).await;
    assert!(
        matches!(stopped, Err(GuestError::NotRunning { .. })),
        "{stopped:?}"
    );
    host.machines.start(VM).await.unwrap();
    // A command waits for a guest that is coming up, but not for one on a starved machine.
    host.until_ready(VM).await;
    let inside = Inside(&host.machines);

    assert!(inside.shell("uname -a").await.starts_with("Linux inside "));
    commands_end_as_they_end(&inside).await;
    what_goes_in_comes_out(&inside).await;
    many_run_at_once(&inside).await;
    much_output_is_no_trouble(&inside).await;
    commands_are_killed(&inside).await;
    a_terminal_is_one(&inside).await;
    files_come_and_go(&inside).await;
    the_time_is_told(&inside).await;
    the_console_is_shown(&inside).await;
    reopening::a_conversation_that_breaks_off_is_begun_again(&inside, &host).await;

    let unknown = host.machines.run("nobody", run(command(&["true"]))).await;
    assert!(
        matches!(unknown, Err(GuestError::NotFound(_))),
        "{unknown:?}"
    );
    let mut left = inside.exec(&["sleep", "1000"], None).await;
    let stopped = host.machines.stop(VM, PATIENCE).await.unwrap();
    assert_eq!(stopped.state_reason, None, "it was not stopped cleanly");
    while let Ok(Some(_)) = left.next().await {}
    host.clear().await;
}

async fn commands_end_as_they_end(inside: &Inside<'_>) {
    let exited = |code| Some(CommandEnding::Exited(code));
    assert_eq!(inside.run(&["true"]).await.ending, exited(0));
    assert_eq!(inside.run(&["false"]).await.ending, exited(1));
    assert_eq!(
        inside.run(&["sh", "-c", "exit 250"]).await.ending,
        exited(250)
    );
    let killed = inside.run(&["sh", "-c", "kill -TERM $$"]).await;
    assert_eq!(killed.ending, Some(CommandEnding::Killed(15)));

    let missing = inside.run(&["no-such-program", "x"]).await;
    assert_eq!(missing.ending, exited(127));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(said, "cannot run no-such-program: not found\n");
    assert_eq!(inside.run(&["/etc/passwd"]).await.ending, exited(126));
    let nowhere = Command {
        cwd: Some("/nowhere".into()),
        ..command(&["true"])
    };
    let nowhere = inside.0.run(VM, run(nowhere)).await.unwrap();
    assert_eq!(nowhere.ending, exited(126), "{nowhere:?}");

    // What it leaves running does not keep anybody waiting.
    let begun = Instant::now();
    let left = inside.run(&["sh", "-c", "sleep 500 & echo begun"]).await;
    assert_eq!(
        (left.ending, left.stdout.as_slice()),
        (exited(0), &b"begun\n"[..])
    );
    assert!(begun.elapsed() < Duration::from_secs(400));
    inside.shell("killall sleep").await;
}

async fn what_goes_in_comes_out(inside: &Inside<'_>) {
    // A program's arguments, environment and place, with nothing lost on the way.
    let env = [("A", "b c"), ("EMPTY", ""), ("HOME", "/tmp"), ("U", "ü\n")];
    let told = Command {
        env: env.map(|(name, value)| (name.into(), value.into())).into(),
        cwd: Some("/etc".into()),
        ..command(&[
            "sh",
            "-c",
            "pwd; echo \"$A|${EMPTY-unset}|$HOME|$U|$PATH|$1|$2\"",
            "sh",
            "",
            "x  y",
        ])
    };
    let told = inside.0.run(VM, run(told)).await.unwrap();
    let expected = "/etc\nb c||/tmp|ü\n|/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\
                    ||x  y\n";
    assert_eq!(String::from_utf8_lossy(&told.stdout), expected);
    assert_eq!(inside.shell("pwd; echo $HOME").await, "/root\n/root");

    // A thousand lines, and every byte there is, longer than any pipe or window.
    let lines: String = (1..=1000).map(|n| format!("line {n}\n")).collect();
    let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    for stdin in [lines.into_bytes(), bytes, Vec::new()] {
        let echoed = RunCommand {
            stdin: stdin.clone(),
            ..run(command(&["cat"]))
        };
        let echoed = inside.0.run(VM, echoed).await.unwrap();
        assert!(echoed.stdout == stdin && !echoed.truncated);
    }
    // Who does not read what it is given ends all the same.
    let deaf = RunCommand {
        stdin: vec![0; 1 << 20],
        ..run(command(&["true"]))
    };
    let deaf = inside.0.run(VM, deaf).await.unwrap();
    assert_eq!(deaf.ending, Some(CommandEnding::Exited(0)));
}

async fn many_run_at_once(inside: &Inside<'_>) {
    let mut slow = inside.exec(&["cat"], None).await;
    // Nobody reads this one's output, and the others go on.
    let unread = inside.exec(&["yes"], None).await;
    let others = (0..8).map(|n| async move {
        let script = format!("for i in 1 2 3; do echo {n}; done; cat /proc/uptime >/dev/null");
        assert_eq!(inside.shell(&script).await, format!("{n}\n{n}\n{n}"));
    });
    futures::future::join_all(others).await;

    let id = slow.id();
    inside
        .0
        .exec_input(VM, id, b"first\n", false)
        .await
        .unwrap();
    assert_eq!(until(&mut slow, "first\n").await, "first\n");
    inside
        .0
        .exec_input(VM, id, b"second\n", true)
        .await
        .unwrap();
    let (written, last) = end(&mut slow).await;
    assert_eq!(
        (written.as_slice(), last),
        (&b"second\n"[..], Some(ExecEvent::Exited(0)))
    );
    let gone = inside.0.exec_input(VM, id, b"x", false).await;
    let no_such = |error: &GuestError| {
        matches!(
            error,
            GuestError::Problem {
                problem: GuestProblem::NoSuchCommand,
                ..
            }
        )
    };
    assert!(gone.is_err_and(|error| no_such(&error)));
    drop(unread);
    inside.until_gone("^yes").await;

    // More than there may be are refused, and room is made by those that end.
    let mut all = Vec::new();
    let refused = loop {
        match inside.0.exec(VM, command(&["sleep", "1000"])).await {
            Ok(execution) => all.push(execution),
            Err(refused) => break refused,
        }
        assert!(all.len() < 100);
    };
    let busy = |error: &GuestError| {
        matches!(
            error,
            GuestError::Problem {
                problem: GuestProblem::Busy { .. },
                ..
            }
        )
    };
    assert!(busy(&refused), "{refused}");
    drop(all);
    // They are told to end at once, and there is room when the first has ended.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match inside.0.run(VM, run(command(&["true"]))).await {
            Err(still) if busy(&still) && Instant::now() < deadline => {}
            ended => break drop(ended.unwrap()),
        }
    }
    inside.until_gone("^sleep").await;
}

async fn much_output_is_no_trouble(inside: &Inside<'_>) {
    let much = [
        "sh",
        "-c",
        "dd if=/dev/zero bs=65536 count=160 2>/dev/null; echo end >&2",
    ];
    let much = RunCommand {
        max_output_bytes: 1000,
        ..run(command(&much))
    };
    let much = inside.0.run(VM, much).await.unwrap();
    assert_eq!(much.stdout, [0; 1000]);
    assert_eq!(much.stderr, b"end\n");
    assert!(much.truncated);

    let mut all = inside
        .exec(&["head", "-c", "10485760", "/dev/zero"], None)
        .await;
    let (written, last) = end(&mut all).await;
    assert_eq!(
        (written.len(), last),
        (10 << 20, Some(ExecEvent::Exited(0)))
    );
}

async fn commands_are_killed(inside: &Inside<'_>) {
    let endless = RunCommand {
        timeout: Duration::from_secs(2),
        ..run(command(&[
            "sh",
            "-c",
            "echo begun; sleep 555 & sleep 555; echo no",
        ]))
    };
    let killed = inside.0.run(VM, endless).await.unwrap();
    assert!(killed.timed_out, "{killed:?}");
    assert_eq!(killed.ending, Some(CommandEnding::Killed(9)));
    assert_eq!(killed.stdout, b"begun\n");
    inside.until_gone("sleep 555").await;

    // Whoever leaves takes the command along.
    let left = run(command(&["sleep", "666"]));
    let left = tokio::time::timeout(Duration::from_secs(2), inside.0.run(VM, left)).await;
    assert!(left.is_err());
    inside.until_gone("sleep 666").await;
    let execution = inside.exec(&["sh", "-c", "sleep 777 & wait"], None).await;
    drop(execution);
    inside.until_gone("sleep 777").await;
}

async fn a_terminal_is_one(inside: &Inside<'_>) {
    let size = |rows, columns| TerminalSize { rows, columns };
    let mut shell = inside.exec(&["sh"], Some(size(31, 97))).await;
    let id = shell.id();
    let say = async |text: &str| {
        inside
            .0
            .exec_input(VM, id, text.as_bytes(), false)
            .await
            .unwrap()
    };
    say("tty; stty size; echo $TERM\n").await;
    let shown = until(&mut shell, "xterm\r\n").await;
    assert!(
        shown.contains("tty; stty size"),
        "it does not echo: {shown:?}"
    );
    assert!(shown.contains("/dev/pts/0\r\n31 97\r\n"), "{shown:?}");
    inside.0.exec_resize(VM, id, size(50, 132)).await.unwrap();
    say("stty size\n").await;
    until(&mut shell, "50 132\r\n").await;

    // Ctrl-C interrupts what runs on it and not the shell.
    say("echo sle''eps; sleep 888\n").await;
    until(&mut shell, "sleeps\r\n").await;
    // A shell that has not yet become the program would swallow the signal.
    inside.until_there("sleep 888").await;
    say("\x03").await;
    say("echo st''ill here\n").await;
    until(&mut shell, "still here\r\n").await;
    inside.until_gone("sleep 888").await;
    inside.0.exec_input(VM, id, b"", true).await.unwrap();
    let (_, last) = end(&mut shell).await;
    assert!(matches!(last, Some(ExecEvent::Exited(_))), "{last:?}");

    let mut left = inside.exec(&["sh"], Some(size(24, 80))).await;
    inside
        .0
        .exec_input(VM, left.id(), b"sleep 999\n", false)
        .await
        .unwrap();
    until(&mut left, "sleep 999").await;
    drop(left);
    inside.until_gone("sleep 999").await;
}

async fn files_come_and_go(inside: &Inside<'_>) {
    let write = |path: &str, data: &[u8], place, mode| FileWrite {
        path: path.to_owned(),
        data: data.to_vec(),
        place,
        mode,
    };
    let put = async |write: FileWrite| inside.0.write_file(VM, write).await;
    let content: Vec<u8> = (0..PIECE_BYTES as u32).map(|n| (n % 253) as u8).collect();
    put(write("/tmp/a", &content, FilePlace::Whole, Some(0o4750)))
        .await
        .unwrap();
    assert_eq!(
        inside.shell("stat -c '%a %s' /tmp/a").await,
        format!("4750 {PIECE_BYTES}")
    );
    let piece = inside
        .0
        .read_file(VM, "/tmp/a", 0, usize::MAX)
        .await
        .unwrap();
    assert!(piece.data == content);
    assert_eq!((piece.size, piece.mode), (PIECE_BYTES as u64, 0o4750));
    let rest = inside
        .0
        .read_file(VM, "/tmp/a", 100_000, 50_000)
        .await
        .unwrap();
    assert!(rest.data == content[100_000..150_000] && !rest.end);
    let end = inside
        .0
        .read_file(VM, "/tmp/a", PIECE_BYTES as u64, 10)
        .await
        .unwrap();
    assert!(end.data.is_empty() && end.end);
    // What the kernel makes up has no size and is read to its end all the same.
    let version = inside
        .0
        .read_file(VM, "/proc/version", 0, 4096)
        .await
        .unwrap();
    assert!(version.data.starts_with(b"Linux") && version.end);

    // Owner and mode stay; a new file is everybody's to read.
    inside
        .shell("chown 65534 /tmp/a; chmod 640 /tmp/a; ln -s a /tmp/link")
        .await;
    put(write("/tmp/a", b"new", FilePlace::Whole, None))
        .await
        .unwrap();
    put(write("/tmp/b", b"", FilePlace::Whole, None))
        .await
        .unwrap();
    assert_eq!(
        inside.shell("stat -c '%a %u %s' /tmp/a /tmp/b").await,
        "640 65534 3\n644 0 0"
    );
    put(write("/tmp/a", b"W", FilePlace::At(2), None))
        .await
        .unwrap();
    assert_eq!(inside.shell("cat /tmp/a /tmp/link").await, "neWneW");

    // Pieces appear together, and not before.
    let staged = |offset, last| FilePlace::Staged {
        upload: "0a".into(),
        offset,
        last,
    };
    put(write("/tmp/c", b"one ", staged(0, false), None))
        .await
        .unwrap();
    // Whoever sends them may be gone for good, so nothing of them is to be seen meanwhile.
    assert_eq!(
        inside
            .shell("ls -A /tmp | grep -e hostler -e ^c || echo none")
            .await,
        "none"
    );
    let lost = put(write("/tmp/d", b"two", staged(4, true), None)).await;
    let lost = lost.unwrap_err().to_string();
    assert!(lost.contains("begin it anew"), "{lost}");
    put(write("/tmp/c", b"two", staged(4, true), Some(0o600)))
        .await
        .unwrap();
    assert_eq!(
        inside
            .shell("cat /tmp/c; ls -A /tmp | grep hostler || true")
            .await,
        "one two"
    );

    // Links mean what they mean in there.
    inside
        .shell("ln -s /etc /tmp/etc; echo inside >/etc/mark")
        .await;
    let mark = inside
        .0
        .read_file(VM, "/tmp/etc/mark", 0, 100)
        .await
        .unwrap();
    assert_eq!(mark.data, b"inside\n");
    put(write("/tmp/etc/put", b"x", FilePlace::Whole, None))
        .await
        .unwrap();
    assert_eq!(inside.shell("cat /etc/put").await, "x");
    let up = inside
        .0
        .read_file(VM, "/../../../etc/mark", 0, 100)
        .await
        .unwrap();
    assert_eq!(up.data, b"inside\n", "there is nothing above the root");

    inside.shell("mkfifo /tmp/pipe").await;
    for (path, wanted) in [
        ("/no/such", "No such file"),
        ("/etc", "directory"),
        ("/tmp/pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
    ] {
        let refused = inside.0.read_file(VM, path, 0, 1).await.unwrap_err();
        assert!(
            refused
                .to_string()
                .to_lowercase()
                .contains(&wanted.to_lowercase()),
            "{refused}"
        );
    }
    let missing = put(write("/no/such/file", b"x", FilePlace::Whole, None))
        .await
        .unwrap_err();
    let not_found = |error: &GuestError| {
        matches!(
            error,
            GuestError::Problem {
                problem: GuestProblem::FileNotFound { .. },
                ..
            }
        )
    };
    assert!(not_found(&missing), "{missing}");
    put(write("/tmp", b"x", FilePlace::Whole, None))
        .await
        .unwrap_err();
    put(write("/proc/x", b"x", FilePlace::Whole, None))
        .await
        .unwrap_err();
    let relative = put(write("tmp/x", b"x", FilePlace::Whole, None))
        .await
        .unwrap_err();
    assert!(matches!(relative, GuestError::Invalid(_)), "{relative}");
}

async fn the_time_is_told(inside: &Inside<'_>) {
    inside.shell("date -s '2001-02-03 04:05:06'").await;
    inside.0.sync_time(VM).await.unwrap();
    let there: i64 = inside.shell("date +%s").await.parse().unwrap();
    let here = jiff::Timestamp::now().as_second();
    assert!((here - there).abs() < 60, "{there} is not {here}");
}

async fn the_console_is_shown(inside: &Inside<'_>) {
    let begun = inside.0.console(VM, 5).await.unwrap();
    inside
        .shell("echo one >/dev/console; echo two >/dev/console")
        .await;
    let deadline = Instant::now() + PATIENCE;
    let (mut position, mut shown) = (begun.position, String::new());
    while !shown.contains("two") {
        let more = inside.0.console_from(VM, position).await.unwrap();
        position = more.position;
        shown.push_str(&String::from_utf8_lossy(&more.bytes));
        assert!(Instant::now() < deadline, "{shown:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shown.replace('\r', ""), "one\ntwo\n");
    let last = inside.0.console(VM, 1).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&last.bytes).trim(), "two");
}
