//! The command line as a user meets it on a bad day.

use std::process::Command;

use crate::support::{Plane, free_port, hostler};

/// Runs it; its exit code and what it said on the error stream.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = hostler()
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), told)
}

fn one_line(told: &str) -> bool {
    told.lines().count() == 1 && told.starts_with("error: ")
}

#[test]
fn a_wrong_usage_ends_with_2_and_a_failure_with_1() {
    assert_eq!(run(&["vm", "create"], &[]).0, Some(2));
    assert_eq!(run(&["no-such-command"], &[]).0, Some(2));
    let create = ["vm", "create", "x", "--port", "eighty"];
    let (code, told) = run(&create, &[]);
    assert!(code == Some(2) && told.contains("8080:80"), "{told}");
    let (code, told) = run(&["vm", "list"], &[]);
    assert!(
        code == Some(1) && one_line(&told) && told.contains("--server"),
        "{told}"
    );
}

#[test]
fn an_absent_server_is_named() {
    let url = format!("https://127.0.0.1:{}", free_port());
    let environment = [("HOSTLER_SERVER", url.as_str()), ("HOSTLER_TOKEN", "hst_x")];
    let (code, told) = run(&["host", "list"], &environment);
    assert!(
        code == Some(1) && one_line(&told) && told.contains(&url),
        "{told}"
    );
}

#[test]
fn a_server_of_another_authority_never_sees_the_token() {
    let plane = Plane::start();
    let other = Plane::start();
    let (url, ca) = (plane.url(), other.ca());
    let environment = [
        ("HOSTLER_SERVER", url.as_str()),
        ("HOSTLER_TOKEN", plane.key()),
        ("HOSTLER_CA", ca.to_str().expect("text")),
    ];
    let (code, told) = run(&["host", "list"], &environment);
    assert!(
        code == Some(1) && one_line(&told) && told.contains("--ca"),
        "{told}"
    );
    assert!(!plane.log().contains("hosts/list"), "the request arrived");
}

#[test]
fn a_wrong_token_is_told_where_to_get_a_better_one() {
    let plane = Plane::start();
    let (url, ca) = (plane.url(), plane.ca());
    let environment = [
        ("HOSTLER_SERVER", url.as_str()),
        ("HOSTLER_TOKEN", "hst_00000000000000000000000000000000"),
        ("HOSTLER_CA", ca.to_str().expect("text")),
    ];
    let (code, told) = run(&["host", "list"], &environment);
    assert!(
        code == Some(1) && one_line(&told) && told.contains("hostler login"),
        "{told}"
    );
}

#[test]
fn a_login_is_saved_and_used() {
    let plane = Plane::start();
    let home = tempfile::tempdir().expect("a directory");
    let login = hostler()
        .args(["login", "--server", &plane.url(), "--ca"])
        .arg(plane.ca())
        .env("HOSTLER_TOKEN", plane.key())
        .env("XDG_CONFIG_HOME", home.path())
        .output()
        .expect("it runs");
    assert!(
        login.status.success(),
        "{}",
        String::from_utf8_lossy(&login.stderr)
    );
    let list = hostler()
        .args(["host", "list", "--output", "json"])
        .env("XDG_CONFIG_HOME", home.path())
        .output()
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&list.stdout).trim(), "[]");
}

#[test]
fn a_setting_that_cannot_be_costs_nobody_the_first_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("server");
    let data = data.to_str().expect("text");
    let start = [
        "server",
        "--listen",
        "127.0.0.1:0",
        "--fleet-listen",
        "127.0.0.1:0",
    ];
    for wrong in [
        ["--decoy", "nothing"],
        ["--tls-name", "a b"],
        ["--database-url", "oracle://x"],
    ] {
        let (code, told) = run(&[&start[..], &["--data-dir", data], &wrong].concat(), &[]);
        assert!(code == Some(1) && told.contains("error: "), "{told}");
    }
    // It panics when the key is not printed.
    Plane::start_in(data.into());
}

#[test]
fn a_result_that_cannot_be_printed_is_a_failure_unless_nobody_listens() {
    let completion = || {
        let mut command = hostler();
        command.args(["completion", "bash"]);
        command
    };
    let full = std::fs::File::create("/dev/full").expect("Linux has it");
    let output = completion().stdout(full).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && one_line(&told), "{told}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = completion().stdout(writer).output().expect("it runs");
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn a_shell_can_be_completed() {
    for shell in ["bash", "zsh", "fish"] {
        let output = hostler()
            .args(["completion", shell])
            .output()
            .expect("it runs");
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && script.contains("port-forward"),
            "{shell}"
        );
    }
}

#[test]
fn a_host_becomes_a_service_and_nothing_is_replaced_unasked() {
    use std::os::unix::fs::PermissionsExt;

    let root = tempfile::tempdir().expect("a directory");
    let install = |more: &[&str]| {
        let mut command = hostler();
        command
            .args(["agent", "install", "--server", "https://cloud.example:8443"])
            .args([
                "--address",
                "10.0.0.7:9443",
                "--data-dir",
                "/srv/a $b%c/hostler",
            ])
            .args(["--server-ca", "ca.pem", "--root"])
            .arg(root.path())
            .args(more)
            .env("HOSTLER_REGISTER", "hsr_secret");
        command.output().expect("it runs")
    };
    let printed = install(&["--print"]);
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(
        printed.status.success() && text.contains("KillMode=process"),
        "{text}"
    );
    assert!(!text.contains("hsr_secret"), "a token was printed");
    assert!(!root.path().join("etc").exists(), "--print wrote something");

    let told = install(&[]);
    assert!(told.status.success(), "{told:?}");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("systemctl enable --now hostler-agent"),
        "{told}"
    );
    let environment = root.path().join("etc/hostler/agent.env");
    let mode = environment
        .metadata()
        .expect("written")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&environment).expect("read");
    assert!(text.contains("HOSTLER_REGISTER=\"hsr_secret\"\n"), "{text}");
    assert!(
        text.contains("HOSTLER_DATA_DIR=\"/srv/a \\$b%c/hostler\"\n"),
        "{text}"
    );
    let absolute = std::env::current_dir().expect("a place").join("ca.pem");
    assert!(
        text.contains(&format!("HOSTLER_SERVER_CA=\"{}\"", absolute.display())),
        "{text}"
    );

    let again = install(&[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    assert!(install(&["--force"]).status.success());

    let unit = root.path().join("etc/systemd/system/hostler-agent.service");
    // `verify` looks for the environment file where it will be, and that is no error.
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .output();
    let Ok(verified) = verified else {
        eprintln!("skipped: systemd-analyze is not there to verify the unit");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("hostler-agent"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn a_copy_of_the_audit_trail_is_checked_far_from_its_server() {
    let plane = Plane::start();
    let (url, ca) = (plane.url(), plane.ca());
    let asked = |arguments: &[&str]| {
        let output = hostler()
            .args(arguments)
            .env("HOSTLER_SERVER", &url)
            .env("HOSTLER_TOKEN", plane.key())
            .env("HOSTLER_CA", &ca)
            .output()
            .expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    for _ in 0..2 {
        assert_eq!(asked(&["host", "create"]).0, Some(0));
    }
    let (code, said, _) = asked(&["audit", "verify"]);
    assert_eq!(code, Some(0), "{said}");
    let head = said.lines().find_map(|line| line.strip_prefix("head "));
    let head = head.expect("a head").to_owned();
    let (_, listed, _) = asked(&["audit", "list"]);
    assert!(
        listed.contains("host.create") && listed.contains("127.0.0.1"),
        "{listed}"
    );

    let (_, copy, _) = asked(&["audit", "list", "--output", "json"]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("audit.json");
    let file_name = file.to_str().expect("text");
    let check = |trail: &str, more: &[&str]| {
        std::fs::write(&file, trail).expect("written");
        let output = hostler()
            .args(["audit", "verify", file_name])
            .args(more)
            .output();
        let output = output.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    assert_eq!(check(&copy, &["--head", &head]).0, Some(0));
    let (code, told) = check(&copy.replacen("host.create", "host.delete", 1), &[]);
    assert!(
        code == Some(1) && one_line(&told) && told.contains("is not as it was written"),
        "{told}"
    );
    let mut lines: Vec<serde_json::Value> = serde_json::from_str(&copy).expect("JSON");
    lines.pop();
    let short = serde_json::to_string(&lines).expect("JSON");
    assert_eq!(
        check(&short, &[]).0,
        Some(0),
        "without a head it cannot be known"
    );
    let (code, told) = check(&short, &["--head", &head]);
    assert!(
        code == Some(1) && told.contains("the trail ends at line"),
        "{told}"
    );
    let (code, told) = check("[{}]", &[]);
    assert!(
        code == Some(1) && told.contains("hostler audit list"),
        "{told}"
    );
}
