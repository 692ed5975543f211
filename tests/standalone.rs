//! A host without a control plane: who gets in, by which files, and until when.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use time::{Duration as Span, OffsetDateTime};

use crate::support::{Answer, Daemon, curl, free_port, hostler, kill_all_of, wait_for};

/// A certificate and its key, as files.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Credential {
    /// What curl is to present.
    pub(crate) fn arguments(&self) -> [&str; 4] {
        let certificate = self.certificate.to_str().expect("text");
        let key = self.key.to_str().expect("text");
        ["--cert", certificate, "--key", key]
    }
}

/// A standalone host of a test's own, with files of `hostler tls init`.
pub(crate) struct Standalone {
    pub(crate) directory: TempDir,
    data: PathBuf,
    pub(crate) door: u16,
    pub(crate) probes: u16,
    /// Variables of every daemon.
    environment: &'static [(&'static str, &'static str)],
    daemon: Option<Daemon>,
}

impl Standalone {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        Self::launched(directory, data, &[])
    }

    /// With its data in this directory.
    pub(crate) fn start_in(data: PathBuf) -> Self {
        Self::launched(tempfile::tempdir().expect("a directory"), data, &[])
    }

    /// With its VMs on a bridge.
    pub(crate) fn start_on_a_bridge() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        Self::launched(directory, data, &[("HOSTLER_NETWORK", "bridge")])
    }

    fn launched(
        directory: TempDir,
        data: PathBuf,
        environment: &'static [(&'static str, &'static str)],
    ) -> Self {
        let mut host = Self {
            directory,
            data,
            door: free_port(),
            probes: free_port(),
            environment,
            daemon: None,
        };
        tls_init(&host.tls());
        host.launch(&[]);
        host
    }

    pub(crate) fn command(&self) -> Command {
        let tls = self.tls();
        let mut command = hostler();
        command
            .args(["agent", "--standalone"])
            .args(["--listen", &format!("127.0.0.1:{}", self.door)])
            .args(["--health-listen", &format!("127.0.0.1:{}", self.probes)])
            .arg("--tls-cert")
            .arg(tls.join("alpha/server.crt"))
            .arg("--tls-key")
            .arg(tls.join("alpha/server.key"))
            .arg("--tls-ca")
            .arg(tls.join("ca.crt"))
            .arg("--data-dir")
            .arg(self.data())
            .arg("--import-allow")
            .arg(self.directory.path());
        command
    }

    /// Starts it with these variables, and waits until its door is open.
    pub(crate) fn launch(&mut self, environment: &[(&str, &str)]) {
        let daemon = self.try_launch(environment);
        self.daemon = Some(daemon.unwrap_or_else(|log| panic!("it ended: {log}")));
    }

    /// The same, for one that may die on its way; its log then.
    pub(crate) fn try_launch(&mut self, environment: &[(&str, &str)]) -> Result<Daemon, String> {
        self.daemon = None;
        let mut command = self.command();
        command.envs(self.environment.iter().chain(environment).copied());
        let mut daemon = Daemon::start(command, self.path("agent.log"));
        let lines = BufReader::new(daemon.output()).lines();
        match lines
            .map_while(Result::ok)
            .any(|line| line.starts_with("ready"))
        {
            true => Ok(daemon),
            false => Err(daemon.log()),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.path("tls")
    }

    pub(crate) fn daemon(&mut self) -> &mut Option<Daemon> {
        &mut self.daemon
    }

    pub(crate) fn operator(&self) -> Credential {
        Credential {
            certificate: self.tls().join("client/client.crt"),
            key: self.tls().join("client/client.key"),
        }
    }

    /// Asks with curl, as whoever has this credential.
    pub(crate) fn ask(&self, who: Option<&Credential>, arguments: &[&str], path: &str) -> Answer {
        let ca = self.tls().join("ca.crt");
        let ca = ["--cacert", ca.to_str().expect("text")];
        ask(&ca, self.door, who, arguments, path)
    }

    /// Asks as the operator, who must be answered with this status.
    pub(crate) fn must(&self, status: u16, method: &str, path: &str, body: &str) -> Answer {
        let mut arguments = vec!["--request", method];
        if !body.is_empty() {
            arguments.extend(["--json", body]);
        }
        let answer = self.ask(Some(&self.operator()), &arguments, path);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        answer
    }
}

impl Drop for Standalone {
    /// A test that fails leaves its guests running, and nobody else would end them.
    fn drop(&mut self) {
        self.daemon = None;
        kill_all_of(&self.data());
    }
}

pub(crate) fn ask(
    trust: &[&str],
    port: u16,
    who: Option<&Credential>,
    arguments: &[&str],
    path: &str,
) -> Answer {
    let url = format!("https://127.0.0.1:{port}{path}");
    let mut all = trust.to_vec();
    all.push("--path-as-is");
    if let Some(who) = who {
        all.extend(who.arguments());
        all.extend(arguments);
        all.push(&url);
        return curl(&all, "");
    }
    all.extend(arguments);
    all.push(&url);
    curl(&all, "")
}

pub(crate) fn tls_init(directory: &Path) {
    let made = hostler()
        .args(["tls", "init", "--hosts", "alpha=127.0.0.1", "--output-dir"])
        .arg(directory)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("it runs").success());
}

/// A certificate that the CA in `tls` signs for a name without a SPIFFE ID, valid from and until so
/// many hours from now.
pub(crate) fn issue(tls: &Path, into: &Path, name: &str, hours: (i64, i64)) -> Credential {
    let read = |name: &str| std::fs::read_to_string(tls.join(name)).expect("read");
    let key = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), key).expect("a CA");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    let now = OffsetDateTime::now_utc();
    params.not_before = now + Span::hours(hours.0);
    params.not_after = now + Span::hours(hours.1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("signed");
    let credential = Credential {
        certificate: into.join(format!("{name}.crt")),
        key: into.join(format!("{name}.key")),
    };
    std::fs::write(&credential.certificate, certificate.pem()).expect("written");
    std::fs::write(&credential.key, key.serialize_pem()).expect("written");
    credential
}

#[test]
fn a_certificate_of_the_ca_gets_in_with_and_without_a_spiffe_id() {
    let host = Standalone::start();
    let plain = issue(&host.tls(), host.directory.path(), "ops", (-1, 1));
    for who in [host.operator(), plain] {
        let answer = host.ask(Some(&who), &[], "/v1/vms");
        assert_eq!((answer.status, answer.body.as_str()), (200, "[]"));
        let old = host.ask(Some(&who), &["--tls-max", "1.2"], "/v1/vms");
        assert_eq!(old.status, 0, "TLS 1.2 was spoken");
    }
}

#[test]
fn probes_learn_one_word_and_nobody_else_anything() {
    let mut host = Standalone::start();
    let known = host.ask(Some(&host.operator()), &[], "/healthz");
    assert_eq!((known.status, known.body.as_str()), (200, "ok"));
    let unknown = host.ask(None, &[], "/healthz");
    assert_eq!(unknown.status, 0);
    assert!(
        unknown.problem.contains("certificate required"),
        "{unknown:?}"
    );

    let plain = |path: &str| curl(&[&format!("http://127.0.0.1:{}{path}", host.probes)], "");
    assert_eq!(
        (plain("/healthz").status, &*plain("/healthz").body),
        (200, "ok")
    );
    assert_eq!(plain("/v1/vms").status, 404);
    let daemon = host.daemon().take().expect("it runs");
    assert_eq!(
        daemon.stop(),
        Some(0),
        "{}",
        host.path("agent.log").display()
    );
}

#[test]
fn files_that_are_replaced_are_used_without_a_restart() {
    let host = Standalone::start();
    let before = host.operator();
    assert_eq!(host.ask(Some(&before), &[], "/v1/health").status, 200);
    // Everything new: a CA, a certificate of the host, one of the operator. As renewing programs do
    // it, file by file.
    let new = host.path("new");
    tls_init(&new);
    let kept = host.path("before");
    std::fs::create_dir(&kept).expect("made");
    let before = Credential {
        certificate: copy(&before.certificate, &kept),
        key: copy(&before.key, &kept),
    };
    for file in [
        "alpha/server.key",
        "alpha/server.crt",
        "ca.crt",
        "client/client.key",
        "client/client.crt",
    ] {
        std::fs::rename(new.join(file), host.tls().join(file)).expect("replaced");
    }
    wait_for("the new files to be used", || {
        (host.ask(Some(&host.operator()), &[], "/v1/health").status == 200).then_some(())
    });
    let late = host.ask(Some(&before), &["--insecure"], "/v1/health");
    assert_eq!(late.status, 0, "the old CA's client still gets in");
}

fn copy(file: &Path, into: &Path) -> PathBuf {
    let to = into.join(file.file_name().expect("a name"));
    std::fs::copy(file, &to).expect("copied");
    to
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_is_done() {
    let host = Standalone::start();
    let complaint = |flag: &str, file: &Path| {
        let tls = host.tls();
        let mut files = vec![
            ("--tls-cert", tls.join("alpha/server.crt")),
            ("--tls-key", tls.join("alpha/server.key")),
            ("--tls-ca", tls.join("ca.crt")),
        ];
        let wrong = files.iter_mut().find(|(name, _)| *name == flag);
        wrong.expect("a flag").1 = file.to_owned();
        let data = host.path("unused");
        let mut command = hostler();
        command
            .args(["agent", "--standalone", "--data-dir"])
            .arg(&data);
        for (flag, file) in &files {
            command.arg(flag).arg(file);
        }
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(!data.exists(), "{flag}: it began all the same");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let missing = host.path("missing.pem");
    assert!(complaint("--tls-cert", &missing).contains("missing.pem"));
    let other = host.tls().join("client/client.key");
    assert!(complaint("--tls-key", &other).contains("client.key"));
    let leaf = host.tls().join("client/client.crt");
    let told = complaint("--tls-ca", &leaf);
    assert!(told.contains("no certificate authority"), "{told}");
}

#[test]
fn log_lines_about_a_vm_carry_its_name_and_its_id() {
    let mut host = Standalone::start();
    host.launch(&[("HOSTLER_LOG_FORMAT", "json")]);
    host.must(200, "POST", "/v1/images/pull", "{}");
    let body = r#"{"name":"web","memory_mb":128,"disk_size_mb":256}"#;
    let vm = host.must(201, "POST", "/v1/vms", body).json();
    host.must(200, "POST", "/v1/vms/web/start", "");
    host.must(200, "POST", "/v1/vms/web/stop", r#"{"timeout_secs":0}"#);
    host.must(200, "DELETE", "/v1/vms/web", "");
    let log = std::fs::read_to_string(host.path("agent.log")).expect("a log");
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let lines: Vec<serde_json::Value> = lines.collect();
    for message in ["the VM's process is up", "the VM's process has ended"] {
        let line = lines
            .iter()
            .find(|line| line["fields"]["message"] == message);
        let span = &line.unwrap_or_else(|| panic!("no {message:?} in {log}"))["span"];
        assert_eq!(
            (&span["vm"], &span["vm_id"]),
            (&"web".into(), &vm["id"]),
            "{span}"
        );
    }
}
