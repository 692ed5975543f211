//! `hostler svid`, `spiffe-id` and `tls`: the built binary on files and on a real Workload API.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hostler_authority::workload_api::{Entries, Entry, Selector, WorkloadApi};
use hostler_authority::{Authority, Lifetimes};
use hostler_identity::{Svid, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::support::{hostler, wait_for};

fn run(arguments: &[&str]) -> Output {
    hostler()
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .args(arguments)
        .output()
        .expect("it runs")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The standard output of a command that must succeed.
fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The one line of a command that must fail.
fn complaint(arguments: &[&str]) -> String {
    let output = run(arguments);
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
    assert!(
        told.starts_with("error: ") && told.lines().count() == 1,
        "{told}"
    );
    told
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o777
}

/// A Workload API in this process, on which this user's processes are `/web`.
struct Api {
    endpoint: String,
    authority: Authority,
    entries: watch::Sender<Entries>,
    _dir: TempDir,
    _runtime: Runtime,
}

impl Api {
    fn new(svid_secs: i64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let lifetimes = Lifetimes {
            svid: SignedDuration::from_secs(svid_secs),
            ..Lifetimes::default()
        };
        let domain = TrustDomain::new("a.example").expect("a name");
        let keys = dir.path().join("keys");
        let authority =
            Authority::open_with(&keys, domain, lifetimes, Timestamp::now()).expect("an authority");
        let (entries, seen) = watch::channel(Entries::default());
        let runtime = Runtime::new().expect("a runtime");
        let _inside = runtime.enter();
        let socket = dir.path().join("workload/api.sock");
        let api = WorkloadApi::bind(&socket, authority.clone(), seen).expect("a socket");
        let endpoint = api.endpoint();
        runtime.spawn(api.serve(std::future::pending()));
        drop(_inside);
        Self {
            endpoint,
            authority,
            entries,
            _dir: dir,
            _runtime: runtime,
        }
    }

    fn register(self) -> Self {
        self.entries
            .send_replace(Entries::from_iter([entry("/web", "")]));
        self
    }

    /// The same, and this user's processes are also `/billing`, with a hint.
    fn register_two(self) -> Self {
        let both = [entry("/web", ""), entry("/billing", "money")];
        self.entries.send_replace(Entries::from_iter(both));
        self
    }

    /// The bundle document of the authority, in a file.
    fn bundle(&self) -> String {
        let path = self._dir.path().join("bundle.json");
        let document = self.authority.bundle_jwks();
        std::fs::write(&path, document).expect("written");
        path.to_str().expect("text").to_owned()
    }

    fn withdraw(&self) {
        self.entries.send_replace(Entries::default());
    }
}

fn entry(path: &str, hint: &str) -> Entry {
    let me = Selector::Uid(rustix::process::geteuid().as_raw());
    let id = format!("spiffe://a.example{path}").parse().expect("an ID");
    let entry = Entry::new(id, [me]).expect("an entry");
    entry.with_hint(hint.to_owned()).expect("a hint")
}

/// A command that runs until its test ends.
struct Background(Child);

impl Background {
    fn new(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::null());
        Self(piped.spawn().expect("it runs"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_spiffe_id_is_checked_with_its_reason() {
    let parts = printed(&["spiffe-id", "check", "spiffe://td/p", "--output", "json"]);
    let parts: serde_json::Value = serde_json::from_str(&parts).expect("JSON");
    assert_eq!(
        (&parts["trust_domain"], &parts["path"]),
        (&"td".into(), &"/p".into())
    );
    assert!(complaint(&["spiffe-id", "check", "spiffe://td//p"]).contains("empty segments"));
    assert!(complaint(&["spiffe-id", "check", "spiffe://TD/p"]).contains("lower case"));
    assert!(complaint(&["spiffe-id", "check", ""]).contains("empty"));
}

/// A private authority in a directory, and the paths in it.
fn initialised(hosts: &str) -> (TempDir, impl Fn(&str) -> String) {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("tls");
    let output = root.to_str().expect("text").to_owned();
    printed(&["tls", "init", "--output-dir", &output, "--hosts", hosts]);
    (dir, move |name| format!("{output}/{name}"))
}

#[test]
fn files_of_a_private_authority_are_verified_and_belong_together() {
    let (_dir, at) = initialised("alpha=10.0.0.7,beta=::1");
    for key in [
        "ca.key",
        "alpha/server.key",
        "beta/server.key",
        "client/client.key",
    ] {
        assert_eq!(mode(at(key).as_ref()), 0o600, "{key}");
    }
    let bundle = at("ca.crt");
    for (file, id) in [
        ("alpha/server.crt", "spiffe://hostler.internal/host/alpha"),
        ("client/client.crt", "spiffe://hostler.internal/client"),
    ] {
        let file = at(file);
        let verdict = printed(&["svid", "verify", "--bundle", &bundle, &file]);
        assert!(verdict.contains(id), "{verdict}");
        printed(&["svid", "verify", "--bundle", &bundle, "--id", id, &file]);
        let other = "spiffe://hostler.internal/other";
        let wrong = complaint(&["svid", "verify", "--bundle", &bundle, "--id", other, &file]);
        assert!(wrong.contains(id) && wrong.contains(other), "{wrong}");
    }
    // What checks names and addresses agrees.
    let openssl = Command::new("openssl")
        .args(["verify", "-CAfile", &bundle, "-verify_ip", "10.0.0.7"])
        .args(["-verify_hostname", "alpha", &at("alpha/server.crt")])
        .output()
        .expect("openssl runs; install it with apt");
    assert!(openssl.status.success(), "{}", told(&openssl));

    let (_other_dir, other) = initialised("alpha=10.0.0.7");
    let refused = complaint(&[
        "svid",
        "verify",
        "--bundle",
        &other("ca.crt"),
        &at("alpha/server.crt"),
    ]);
    assert!(refused.contains("do not vouch"), "{refused}");
    let refused = complaint(&["svid", "verify", "--bundle", &bundle, &bundle]);
    assert!(refused.contains("not an X.509-SVID"), "{refused}");
    let refused = complaint(&[
        "svid",
        "verify",
        "--bundle",
        &at("ca.key"),
        &at("alpha/server.crt"),
    ]);
    assert!(refused.contains("no root certificate"), "{refused}");
    assert!(complaint(&["svid", "verify", "--bundle", &bundle, "/nowhere"]).contains("/nowhere"));
}

#[test]
fn a_private_authority_grows_and_replaces_nothing() {
    let (_dir, at) = initialised("alpha=10.0.0.7");
    let (ca, client) = (at("ca.crt"), at("client/client.crt"));
    let before = [&ca, &client].map(|file| std::fs::read(file).expect("it is there"));
    let dir = at("");
    printed(&[
        "tls",
        "init",
        "--output-dir",
        &dir,
        "--hosts",
        "beta=10.0.0.8",
    ]);
    printed(&["svid", "verify", "--bundle", &ca, &at("beta/server.crt")]);
    assert_eq!(
        [&ca, &client].map(|file| std::fs::read(file).expect("there")),
        before
    );
    let again = complaint(&[
        "tls",
        "init",
        "--output-dir",
        &dir,
        "--hosts",
        "alpha=10.0.0.9",
    ]);
    assert!(again.contains("alpha is there already"), "{again}");
    let elsewhere = ["--hosts", "gamma=10.0.0.9", "--trust-domain", "b.example"];
    let other = complaint(&[&["tls", "init", "--output-dir", &dir], &elsewhere[..]].concat());
    assert!(other.contains("spiffe://hostler.internal"), "{other}");
    let usage = run(&[
        "tls",
        "init",
        "--output-dir",
        &dir,
        "--hosts",
        "../x=10.0.0.1",
    ]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_file_is_shown_whether_it_is_an_svid_or_not() {
    let (_dir, at) = initialised("alpha=10.0.0.7");
    let shown = printed(&["svid", "show", &at("alpha/server.crt"), "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["svid"], true);
    let leaf = &shown["certificates"][0];
    assert_eq!(leaf["uris"][0], "spiffe://hostler.internal/host/alpha");
    assert_eq!(
        (&leaf["dns_names"][0], &leaf["ca"]),
        (&"alpha".into(), &false.into())
    );
    let root = run(&["svid", "show", &at("ca.crt")]);
    assert!(root.status.success());
    assert!(told(&root).contains("no X.509-SVID"), "{}", told(&root));
    assert!(String::from_utf8_lossy(&root.stdout).contains("EC 256"));
    assert!(complaint(&["svid", "show", &at("ca.key")]).contains("no certificate"));
}

#[test]
fn an_identity_is_fetched_from_the_socket_that_the_environment_names() {
    let api = Api::new(3600);
    let fetch = ["svid", "fetch", "--endpoint", &api.endpoint];
    let refused = complaint(&fetch);
    assert!(refused.contains("register an entry"), "{refused}");
    let api = api.register();
    let fetched = printed(&["svid", "fetch", "--endpoint", &api.endpoint]);
    assert!(fetched.contains("spiffe://a.example/web"), "{fetched}");
    let by_environment = hostler()
        .env("SPIFFE_ENDPOINT_SOCKET", &api.endpoint)
        .args(["svid", "fetch", "--output", "json"])
        .output()
        .expect("it runs");
    let fetched: serde_json::Value = serde_json::from_slice(&by_environment.stdout).expect("JSON");
    assert_eq!(fetched["id"], "spiffe://a.example/web");
    assert_eq!(fetched["roots"]["a.example"], 1);

    assert!(complaint(&["svid", "fetch"]).contains("SPIFFE_ENDPOINT_SOCKET"));
    let nobody = complaint(&["svid", "fetch", "--endpoint", "unix:///nowhere/api.sock"]);
    assert!(nobody.contains("is the agent running"), "{nobody}");
    let nonsense = complaint(&["svid", "fetch", "--endpoint", "/run/api.sock"]);
    assert!(nonsense.contains("unix:///"), "{nonsense}");
}

#[test]
fn one_of_several_identities_is_chosen_by_its_id_or_its_hint() {
    let api = Api::new(3600).register_two();
    let fetch = |more: &[&str]| {
        let fetch = ["svid", "fetch", "--endpoint", &api.endpoint];
        let fetched = [&fetch[..], &["--output", "json"], more].concat();
        let fetched: serde_json::Value = serde_json::from_str(&printed(&fetched)).expect("JSON");
        fetched
    };
    let (web, billing) = ("spiffe://a.example/web", "spiffe://a.example/billing");
    let first = fetch(&[]);
    assert_eq!(first["others"].as_array().map(Vec::len), Some(1));
    assert_eq!(fetch(&["--id", web])["id"], web);
    let chosen = fetch(&["--id", billing]);
    assert_eq!(
        (&chosen["id"], &chosen["hint"]),
        (&billing.into(), &"money".into())
    );
    assert_eq!(fetch(&["--hint", "money"])["id"], billing);

    let refused = |more: &[&str]| {
        let fetch = ["svid", "fetch", "--endpoint", &api.endpoint];
        complaint(&[&fetch, more].concat())
    };
    for wrong in [
        ["--id", "spiffe://a.example/other"],
        ["--hint", "love"],
        ["--hint", ""],
    ] {
        let told = refused(&wrong);
        let choices = told.contains(web) && told.contains(billing) && told.contains("money");
        assert!(choices, "it names the choices: {told}");
    }
    assert!(refused(&["--id", "/web"]).contains("no SPIFFE ID"));
    let both = ["svid", "fetch", "--id", web, "--hint", "money"];
    assert_eq!(run(&both).status.code(), Some(2));
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().to_str().expect("text");
    let write = ["svid", "write", "--once", "--endpoint", &api.endpoint];
    let write = [&write[..], &["--dir", dir, "--hint", "money"]].concat();
    assert!(told(&run(&write)).contains(billing));
    let shown = printed(&["svid", "show", &format!("{dir}/svid.pem")]);
    assert!(shown.contains(billing), "{shown}");
}

#[test]
fn a_token_is_fetched_and_verified_by_whom_it_is_for() {
    let api = Api::new(3600).register_two();
    let fetch = ["svid", "fetch", "--jwt", "--endpoint", &api.endpoint];
    let fetched = |more: &[&str]| -> serde_json::Value {
        let fetch = [&fetch[..], &["--output", "json"], more].concat();
        serde_json::from_str(&printed(&fetch)).expect("JSON")
    };
    let given = fetched(&[
        "--audience",
        "shop",
        "--audience",
        "bank",
        "--hint",
        "money",
    ]);
    assert_eq!(given["id"], "spiffe://a.example/billing");
    assert_eq!(given["audience"], serde_json::json!(["shop", "bank"]));
    let web = "spiffe://a.example/web";
    assert_eq!(fetched(&["--audience", "shop", "--id", web])["id"], web);

    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("token.jwt");
    let token = given["token"].as_str().expect("a token");
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let (file, bundle) = (file.to_str().expect("text"), api.bundle());
    let verify = ["svid", "verify", "--bundle", &bundle, file];
    let verified = |more: &[&str]| printed(&[&verify[..], more].concat());
    let refused = |more: &[&str]| complaint(&[&verify[..], more].concat());
    let verdict = verified(&["--audience", "bank"]);
    assert!(verdict.contains("spiffe://a.example/billing"), "{verdict}");
    let told = refused(&["--audience", "thief"]);
    assert!(told.contains("audience"), "{told}");
    let told = refused(&["--audience", "bank", "--id", web]);
    assert!(told.contains("/billing"), "{told}");
    assert!(refused(&[]).contains("--audience"));

    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let forged: String = signature.chars().rev().collect();
    std::fs::write(file, format!("{signed}.{forged}")).expect("written");
    let told = refused(&["--audience", "bank"]);
    assert!(
        told.contains("is not valid") && !told.contains(signature),
        "{told}"
    );

    let (_dir, at) = initialised("alpha=10.0.0.7");
    std::fs::write(file, token).expect("written");
    let roots = at("ca.crt");
    let told = complaint(&[
        "svid",
        "verify",
        "--bundle",
        &roots,
        "--audience",
        "bank",
        file,
    ]);
    assert!(told.contains("JWK set"), "{told}");
    let leaf = at("alpha/server.crt");
    let told = complaint(&[
        "svid",
        "verify",
        "--bundle",
        &roots,
        "--audience",
        "bank",
        &leaf,
    ]);
    assert!(told.contains("no JWT-SVID"), "{told}");
    assert_eq!(
        run(&fetch).status.code(),
        Some(2),
        "a token is for somebody"
    );
}

#[test]
fn renewals_and_a_withdrawal_are_watched_line_by_line() {
    let api = Api::new(6).register();
    let mut watch = Background::new(hostler().args([
        "svid",
        "watch",
        "--output",
        "json",
        "--endpoint",
        &api.endpoint,
    ]));
    let lines = BufReader::new(watch.0.stdout.take().expect("a pipe")).lines();
    let mut events = lines.map(|line| -> serde_json::Value {
        serde_json::from_str(&line.expect("text")).expect("JSON")
    });
    let mut next = || events.next().expect("it goes on");
    let (first, second) = (next(), next());
    assert_eq!(
        (&first["event"], &second["event"]),
        (&"issued".into(), &"issued".into())
    );
    assert_eq!(first["id"], "spiffe://a.example/web");
    assert_ne!(first["not_after"], second["not_after"], "it was renewed");
    api.withdraw();
    let withdrawn = wait_for("the withdrawal", || {
        Some(next()).filter(|event| event["event"] == "withdrawn")
    });
    assert_eq!(withdrawn["id"], serde_json::Value::Null);
}

/// Reads certificate and key for as long as it lives, as a program does that goes by `current`.
struct Pairs {
    ended: Arc<AtomicBool>,
    keys: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    reader: JoinHandle<()>,
}

impl Pairs {
    fn read_from(dir: PathBuf) -> Self {
        let (ended, keys) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<BTreeSet<_>>>::default(),
        );
        let reader = std::thread::spawn({
            let (ended, keys) = (Arc::clone(&ended), Arc::clone(&keys));
            move || {
                while !ended.load(Ordering::Relaxed) {
                    // It may be gone before a slow machine has read it all, and is no pair then.
                    let Some([chain, key, both]) = generation(&dir) else {
                        continue;
                    };
                    let pair = Svid::from_pem(&chain, &key.clone().into());
                    pair.expect("they belong together");
                    assert_eq!(both, [chain, key.clone()].concat());
                    keys.lock().expect("whole").insert(key.into_bytes());
                }
            }
        });
        Self {
            ended,
            keys,
            reader,
        }
    }

    /// How many keys it has seen.
    fn different(&self) -> usize {
        assert!(!self.reader.is_finished(), "a pair did not belong together");
        self.keys.lock().expect("whole").len()
    }

    fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        self.reader.join().expect("every pair belonged together");
    }
}

fn generation(dir: &Path) -> Option<[String; 3]> {
    let at = dir.join("current").canonicalize().ok()?;
    let read = |name: &str| std::fs::read_to_string(at.join(name)).ok();
    Some([
        read("svid.pem")?,
        read("svid.key")?,
        read("svid-and-key.pem")?,
    ])
}

#[test]
fn files_are_kept_fresh_and_a_command_is_told_without_a_shell() {
    let api = Api::new(6).register();
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("tls");
    let at = |name: &str| -> PathBuf { dir.join(name) };
    // Were a shell in between, this would be two commands.
    let told = home.path().join("told; touch broken");
    let _write = Background::new(
        hostler()
            .args(["svid", "write", "--endpoint", &api.endpoint, "--dir"])
            .arg(&dir)
            .args(["--reload", "touch"])
            .arg(&told),
    );
    wait_for("the command", || told.exists().then_some(()));
    for (name, expected) in [
        ("svid.pem", 0o644),
        ("svid.key", 0o600),
        ("svid-and-key.pem", 0o600),
    ] {
        assert_eq!(mode(&at(name)), expected, "{name}");
    }
    let pairs = Pairs::read_from(dir.clone());
    let read = |name: &str| std::fs::read(at(name)).ok();
    let (first, key) = (read("svid.pem"), read("svid.key"));
    let verify = || {
        let (bundle, leaf) = (at("bundle.pem"), at("svid.pem"));
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        printed(&["svid", "verify", "--bundle", &text(&bundle), &text(&leaf)])
    };
    assert!(verify().contains("spiffe://a.example/web"));

    std::fs::remove_file(&told).expect("it was there");
    wait_for("a renewal and the command", || {
        (read("svid.pem") != first && told.exists()).then_some(())
    });
    assert_ne!(read("svid.key"), key, "a new key with it");
    verify();
    wait_for("another renewal", || (pairs.different() >= 3).then_some(()));
    pairs.end();
    let names = std::fs::read_dir(home.path()).expect("a directory").count();
    assert_eq!(names, 2, "only the directory and what the command made");

    api.withdraw();
    wait_for("the removal", || (!at("svid.key").exists()).then_some(()));
    wait_for("the removal", || (!at("svid.pem").exists()).then_some(()));
    assert!(
        at("bundle.pem").exists(),
        "roots are no secret and no identity"
    );
}

#[test]
fn files_are_written_once_and_a_failing_command_is_said() {
    let api = Api::new(3600).register();
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().to_str().expect("text");
    let write = |reload: &[&str]| {
        let once = [
            "svid",
            "write",
            "--once",
            "--endpoint",
            &api.endpoint,
            "--dir",
            dir,
        ];
        run(&[&once[..], reload].concat())
    };
    let failing = write(&["--reload", "false"]);
    assert!(failing.status.success(), "the files are right");
    assert!(
        told(&failing).contains("false failed"),
        "{}",
        told(&failing)
    );
    let missing = write(&["--reload", "/nowhere/program", "-s", "reload"]);
    assert!(
        told(&missing).contains("cannot run /nowhere/program"),
        "{}",
        told(&missing)
    );
    assert!(home.path().join("svid.pem").exists());
    let elsewhere = home.path().join("svid.pem").join("x");
    let elsewhere = elsewhere.to_str().expect("text");
    let refused = complaint(&[
        "svid",
        "write",
        "--once",
        "--endpoint",
        &api.endpoint,
        "--dir",
        elsewhere,
    ]);
    assert!(refused.contains("cannot make"), "{refused}");
}
