//! Users and teams by the command line, as docs/teams.md says.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::tcgetattr;
use serde_json::Value;

use crate::support::{Plane, hostler, wait_for};

const PASSWORD: &str = "correct horse battery";

/// Somebody at a machine of their own, who is logged in or not.
struct Person<'a> {
    plane: &'a Plane,
    home: PathBuf,
}

impl<'a> Person<'a> {
    fn new(plane: &'a Plane, name: &str) -> Self {
        let home = plane.path(name);
        std::fs::create_dir(&home).expect("a home");
        std::fs::write(home.join("password"), format!("{PASSWORD}\n")).expect("a password");
        Self { plane, home }
    }

    fn password(&self) -> String {
        self.home
            .join("password")
            .to_str()
            .expect("text")
            .to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = hostler();
        command
            .args(arguments)
            .env("XDG_CONFIG_HOME", &self.home)
            .env("HOSTLER_SERVER", self.plane.url())
            .env("HOSTLER_CA", self.plane.ca());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn does(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn is_refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn logs_in(&self, name: &str, more: &[&str]) -> String {
        let login = ["login", "--user", name, "--password-file", &self.password()];
        self.does(&[&login[..], more].concat())
    }
}

fn config(home: &Path) -> String {
    std::fs::read_to_string(home.join("hostler/config.toml")).expect("a login is saved")
}

#[test]
fn people_get_in_by_name_and_share_what_is_their_teams() {
    let plane = Plane::start();
    let [ada, eve, bob] = ["ada", "eve", "bob"].map(|name| Person::new(&plane, name));
    let password = ada.password();
    plane.ask(&[
        "user",
        "create",
        "ada",
        "--admin",
        "--password-file",
        &password,
    ]);
    assert!(ada.logs_in("ada", &[]).contains("for the platform"));
    for name in ["eve", "bob"] {
        ada.ask(&["user", "create", name, "--password-file", &password]);
    }
    ada.ask(&["team", "create", "web", "--byoc"]);
    ada.ask(&["team", "member", "add", "web", "eve", "--role", "owner"]);
    ada.ask(&["team", "member", "add", "web", "bob"]);
    assert!(
        eve.logs_in("eve", &["--team", "web"])
            .contains("owner of web")
    );
    assert!(bob.logs_in("bob", &[]).contains("member of web"));
    assert_eq!(bob.ask(&["user", "me"])["user"]["name"], "bob");

    let host = eve.ask(&["host", "create", "--type", "byoc"])["host"]["id"].clone();
    assert_eq!(bob.ask(&["host", "list"])[0]["id"], host);
    assert!(
        bob.is_refused(&["host", "create", "--type", "byoc"])
            .contains("hosts:write")
    );
    let key = eve.ask(&["api-key", "create", "ci", "--scope", "vms:read"]);
    assert!(
        eve.is_refused(&["team", "member", "remove", "web", "eve"])
            .contains("last owner")
    );
    let told = ada.is_refused(&["team", "delete", "web"]);
    assert!(told.contains(host.as_str().expect("an id")), "{told}");

    ada.does(&["team", "member", "remove", "web", "bob"]);
    assert!(bob.is_refused(&["vm", "list"]).contains("hostler login"));
    let vms = |key: &Value| plane.curl(key["secret"].as_str(), &[], "/v1/vms").status;
    assert_eq!(vms(&key), 200);
    ada.does(&["user", "delete", "eve"]);
    assert_eq!(vms(&key), 401);
    assert!(eve.is_refused(&["vm", "list"]).contains("hostler login"));

    let trail = String::from_utf8(ada.run(&["audit", "list"]).stdout).expect("text");
    let made = trail
        .lines()
        .find(|line| line.contains("team.create"))
        .expect("a line");
    assert!(made.contains("  ada  "), "people are shown by name: {made}");
    assert!(ada.does(&["audit", "verify"]).contains("head"));
    let log = plane.log();
    assert!(!log.contains(PASSWORD), "a password is in the log");
}

#[test]
fn who_is_let_go_watches_no_longer() {
    let plane = Plane::start();
    let ada = Person::new(&plane, "ada");
    let password = ada.password();
    plane.ask(&[
        "user",
        "create",
        "ada",
        "--admin",
        "--password-file",
        &password,
    ]);
    ada.logs_in("ada", &[]);
    let mut watch = ada.command(&["watch", "--output", "json"]);
    let mut watching = watch
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    // It may take a moment until it watches: hosts are made until it tells of one.
    let told = std::thread::spawn(move || (lines.next(), lines));
    while !told.is_finished() {
        plane.ask(&["host", "create"]);
    }
    let (first, _lines) = told.join().expect("a line");
    assert!(first.expect("a line").expect("text").contains("created"));
    plane.ask(&["user", "delete", "ada"]);
    let ended = wait_for("the end of the watch", || {
        watching.try_wait().expect("its status")
    });
    assert!(!ended.success());
}

#[test]
fn a_logout_ends_the_token_and_forgets_it() {
    let plane = Plane::start();
    let ada = Person::new(&plane, "ada");
    let password = ada.password();
    plane.ask(&[
        "user",
        "create",
        "ada",
        "--admin",
        "--password-file",
        &password,
    ]);
    ada.logs_in("ada", &[]);
    let saved = config(&ada.home);
    let token = saved.lines().find_map(|line| line.strip_prefix("token = "));
    let token = token.expect("a token").trim_matches('"').to_owned();
    let hosts = || plane.curl(Some(&token), &[], "/v1/hosts").status;
    assert_eq!(hosts(), 200);
    ada.does(&["logout"]);
    assert_eq!(hosts(), 401);
    assert!(!config(&ada.home).contains("token"), "it is forgotten");
    assert!(
        ada.is_refused(&["host", "list"])
            .contains("hostler login --user")
    );
}

#[test]
fn a_wrong_password_is_told_from_a_wrong_token_and_too_many_from_both() {
    let plane = Plane::start();
    let ada = Person::new(&plane, "ada");
    let password = ada.password();
    plane.ask(&["user", "create", "ada", "--password-file", &password]);
    std::fs::write(&password, "wrong horse battery").expect("written");
    let login = ["login", "--user", "ada", "--password-file", &password];
    for _ in 0..10 {
        let told = ada.is_refused(&login);
        assert!(told.contains("the name or the password is wrong"), "{told}");
    }
    let told = ada.is_refused(&login);
    assert!(told.contains("too many attempts; try again in"), "{told}");
    assert!(
        !ada.home.join("hostler/config.toml").exists(),
        "nothing was saved"
    );
    let body = r#"{"name": "ada", "password": "wrong horse battery"}"#;
    let json = ["--json", body];
    let limited = plane.curl(None, &json, "/v1/login");
    assert_eq!(
        (limited.status, limited.code().as_str()),
        (429, "rate_limited")
    );
}

#[test]
fn a_password_is_typed_unseen_and_the_terminal_is_left_as_it_was() {
    let plane = Plane::start();
    let ada = Person::new(&plane, "ada");
    plane.ask(&["user", "create", "ada", "--password-file", &ada.password()]);
    for (typed, succeeds) in [
        (format!("{PASSWORD}\r"), true),
        (format!("{PASSWORD}\u{3}"), false),
    ] {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).expect("a terminal");
        unlockpt(&terminal).expect("unlocked");
        let theirs = ioctl_tiocgptpeer(&terminal, flags).expect("its other end");
        let before = tcgetattr(&theirs).expect("its settings");
        let login = ada.command(&["login", "--user", "ada"]);
        // It has to be the terminal of its session to be asked on.
        let mut command = in_a_session(&login, &["--ctty"]);
        let end = || theirs.try_clone().expect("an end");
        let mut child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("it runs");
        let mut terminal = std::fs::File::from(terminal);
        let mut shown = String::new();
        let mut bytes = [0; 1024];
        while !shown.contains("password for ada: ") {
            let read = terminal.read(&mut bytes).expect("it prints");
            shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        terminal.write_all(typed.as_bytes()).expect("typed");
        let ended = child.wait().expect("it ends");
        assert_eq!(ended.success(), succeeds, "{shown}");
        let read = terminal.read(&mut bytes).expect("it prints");
        shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        assert!(!shown.contains("horse"), "{shown}");
        let after = tcgetattr(&theirs).expect("its settings");
        assert_eq!(format!("{after:?}"), format!("{before:?}"));
    }
    let nowhere = in_a_session(&ada.command(&["login", "--user", "ada"]), &[]).output();
    let nowhere = nowhere.expect("it runs");
    let told = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(
        !nowhere.status.success() && told.contains("--password-file -"),
        "{told}"
    );
}

/// The same command in a session of its own, whose terminal is its input when that is asked for.
fn in_a_session(command: &Command, options: &[&str]) -> Command {
    let mut wrapped = Command::new("setsid");
    wrapped
        .arg("--wait")
        .args(options)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped.stdin(Stdio::null());
    wrapped
}
