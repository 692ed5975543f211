//! A standalone host as a process, and a client that keeps its connection.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostler_identity::{Authorizer, Client, Source, SvidFiles};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::server::{free_port, hostler};

pub(crate) struct Host {
    directory: TempDir,
    daemon: Child,
    url: String,
    runtime: Runtime,
    client: Client,
}

impl Host {
    /// With the default image, and room for 50 VMs.
    pub(crate) fn start() -> Self {
        // The bench has several libraries that bring cryptography; this is the one of the house.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let tls = directory.path().join("tls");
        let made = hostler()
            .args(["tls", "init", "--hosts", "alpha=127.0.0.1", "--output-dir"])
            .arg(&tls)
            .status();
        assert!(made.is_ok_and(|status| status.success()), "no certificates");
        let address = format!("127.0.0.1:{}", free_port());
        let log = std::fs::File::create(directory.path().join("log")).expect("a log");
        let mut daemon = hostler()
            .args(["agent", "--standalone", "--cpu-overcommit", "64"])
            .args(["--listen", &address, "--tls-cert"])
            .arg(tls.join("alpha/server.crt"))
            .arg("--tls-key")
            .arg(tls.join("alpha/server.key"))
            .arg("--tls-ca")
            .arg(tls.join("ca.crt"))
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .arg("--import-allow")
            .arg(directory.path())
            .env("HOSTLER_LOG_FORMAT", "json")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        let lines = BufReader::new(daemon.stdout.take().expect("its output")).lines();
        let ready = lines
            .map_while(Result::ok)
            .any(|line| line.starts_with("ready"));
        assert!(ready, "the agent ended");
        let runtime = Runtime::new().expect("a runtime");
        let files = SvidFiles {
            chain: tls.join("client/client.crt"),
            key: tls.join("client/client.key"),
            bundle: tls.join("ca.crt"),
        };
        let source = runtime.block_on(Source::files(files)).expect("an identity");
        let client = Client::new(&source, Authorizer::any());
        let host = Self {
            directory,
            daemon,
            url: format!("https://{address}"),
            runtime,
            client,
        };
        host.post("/v1/images/pull", "{}");
        host
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.url);
        let answer = self
            .runtime
            .block_on(self.client.get(&url))
            .expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        serde_json::from_slice(answer.body()).expect("JSON")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Value {
        self.runtime
            .block_on(post(&self.client, &format!("{}{path}", self.url), body))
    }

    pub(crate) fn delete(&self, path: &str) {
        let url = format!("{}{path}", self.url);
        let answer = self
            .runtime
            .block_on(self.client.delete(&url))
            .expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    /// Posts all of these at the same time, in the background.
    pub(crate) fn post_all(&self, requests: Vec<(String, String)>) -> Vec<Posting> {
        let posted = requests.into_iter().map(|(path, body)| {
            let (client, url) = (self.client.clone(), format!("{}{path}", self.url));
            self.runtime
                .spawn(async move { post(&client, &url, &body).await })
        });
        posted.collect()
    }

    pub(crate) fn wait<T>(&self, task: tokio::task::JoinHandle<T>) -> T {
        self.runtime.block_on(task).expect("no panic")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// What the daemon said, line by line.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    }
}

pub(crate) type Posting = tokio::task::JoinHandle<Value>;

async fn post(client: &Client, url: &str, body: &str) -> Value {
    let request = http::Request::post(url)
        .header("content-type", "application/json")
        .body(body.to_owned().into())
        .expect("a request");
    let answer = client.request(request).await.expect("an answer");
    let told = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(answer.status().is_success(), "{url}: {told}");
    serde_json::from_str(&told).expect("JSON")
}

impl Drop for Host {
    fn drop(&mut self) {
        for vm in self
            .get("/v1/vms?limit=1000")
            .as_array()
            .into_iter()
            .flatten()
        {
            let name = vm["name"].as_str().unwrap_or_default();
            self.delete(&format!("/v1/vms/{name}?force=true"));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Milliseconds that this takes.
pub(crate) fn millis<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = Instant::now();
    let outcome = work();
    (ms(begun.elapsed()), outcome)
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The value that so many hundredths of all are not above.
pub(crate) fn percentile(values: &mut [f64], hundredths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * hundredths).div_ceil(100).saturating_sub(1);
    values[at]
}

/// A root file system's tarball of about this size, with random content.
pub(crate) fn tarball(directory: &Path, mib: usize) -> PathBuf {
    let tree = directory.join("tree");
    std::fs::create_dir_all(&tree).expect("a directory");
    for number in 0..mib {
        let mut content = vec![0; 1 << 20];
        for (at, byte) in content.iter_mut().enumerate() {
            *byte = ((at as u64 * 2_654_435_761) >> 16) as u8 ^ number as u8;
        }
        std::fs::write(tree.join(format!("file-{number}")), content).expect("written");
    }
    init_in(&tree);
    let tarball = directory.join("root.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&tarball)
        .arg("-C")
        .arg(&tree)
        .arg(".")
        .status();
    assert!(packed.is_ok_and(|status| status.success()), "tar fails");
    tarball
}

/// What makes a tree one that can boot.
pub(crate) fn init_in(tree: &Path) {
    let init = tree.join("sbin/init");
    std::fs::create_dir_all(tree.join("sbin")).expect("a directory");
    std::fs::write(&init, "#!/bin/sh\n").expect("written");
    std::fs::set_permissions(&init, Permissions::from_mode(0o755)).expect("set");
}
