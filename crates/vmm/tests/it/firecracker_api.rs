//! What Firecracker refuses, asked directly: this keeps the stand-in honest, because it has to
//! answer as the real one does, in the same words, where that is there to be asked.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::firecracker::program;

/// A Firecracker of its own, ended at the end.
struct Vmm {
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(socket: &Path) -> Command {
    let mut command = Command::new(program().0);
    command
        .args(["--id", "test-1", "--api-sock"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

impl Vmm {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = command(&dir.path().join("api")).spawn().unwrap();
        let vmm = Self { dir, child };
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(vmm.path("api")).is_err() {
            assert!(Instant::now() < deadline, "it does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        vmm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.path("api")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // One that says no early may not read it all.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let read = match stream.read(&mut chunk) {
                // A read with a time limit is not taken up again after a signal (signal(7)), and
                // other tests' children end.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.unwrap_or(0),
            };
            answer.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(read > 0, "no answer: {text:?}");
                continue;
            };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse::<usize>().unwrap())
            });
            if read == 0 || body.len() >= length.unwrap_or(0) {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, body.to_owned());
            }
        }
    }

    fn refuses(&self, method: &str, path: &str, body: &str, words: &str) {
        let (status, said) = self.ask(method, path, body);
        assert_eq!(status, 400, "{method} {path} {body}: {said}");
        assert!(
            said.contains("fault_message") && said.contains(words),
            "{path} {body}: {said}"
        );
    }

    fn takes(&self, method: &str, path: &str, body: &str) {
        let (status, said) = self.ask(method, path, body);
        assert_eq!(status, 204, "{method} {path} {body}: {said}");
    }
}

#[test]
fn what_is_wrong_in_itself_is_refused_in_firecrackers_words() {
    let vmm = Vmm::start();
    let (status, said) = vmm.ask("GET", "/", "");
    assert_eq!(status, 200);
    assert!(
        said.contains("\"Not started\"") && said.contains("\"test-1\""),
        "{said}"
    );

    vmm.refuses(
        "PUT",
        "/nowhere",
        "{}",
        "Invalid request method and/or path: PUT nowhere.",
    );
    vmm.refuses(
        "GET",
        "/nowhere",
        "",
        "Invalid request method and/or path: GET nowhere.",
    );
    vmm.refuses("PUT", "/actions", "", "Empty PUT request.");
    vmm.refuses(
        "PUT",
        "/actions",
        "{",
        "deserializing the json body of a request",
    );
    vmm.refuses(
        "PUT",
        "/actions",
        r#"{"action_type":"Dance"}"#,
        "unknown variant `Dance`",
    );
    let odd = r#"{"vcpu_count":1,"mem_size_mib":128,"colour":"red"}"#;
    vmm.refuses("PUT", "/machine-config", odd, "unknown field `colour`");
    vmm.refuses(
        "PUT",
        "/machine-config",
        r#"{"vcpu_count":1}"#,
        "missing field `mem_size_mib`",
    );
    let many = r#"{"vcpu_count":33,"mem_size_mib":128}"#;
    vmm.refuses(
        "PUT",
        "/machine-config",
        many,
        "The vCPU number is invalid!",
    );
    let drive =
        r#"{"drive_id":"a-b","path_on_host":"/x","is_root_device":true,"is_read_only":true}"#;
    vmm.refuses(
        "PUT",
        "/drives/a-b",
        drive,
        "alphanumeric characters and underscores",
    );
    let drive = drive.replace("a-b", "ab");
    vmm.refuses(
        "PUT",
        "/drives/other",
        &drive,
        "does not match the id from the body [ab]!",
    );
    vmm.refuses("PUT", "/drives/ab", &drive, "No such file or directory");
    let boot = r#"{"kernel_image_path":"/nowhere/vmlinux"}"#;
    vmm.refuses(
        "PUT",
        "/boot-source",
        boot,
        "The kernel file cannot be opened",
    );

    let long = format!(r#"{{"action_type":"{}"}}"#, "x".repeat(51_200));
    let (status, said) = vmm.ask("PUT", "/actions", &long);
    assert!(
        status >= 400 && said.contains("larger than the limit of 51200"),
        "{status} {said}"
    );
}

#[test]
fn what_comes_too_early_or_over_something_else_is_refused() {
    let vmm = Vmm::start();
    let early = "The requested operation is not supported before starting the microVM.";
    vmm.refuses("PATCH", "/vm", r#"{"state":"Paused"}"#, early);
    let snapshot = r#"{"snapshot_path":"/tmp/a","mem_file_path":"/tmp/b"}"#;
    vmm.refuses("PUT", "/snapshot/create", snapshot, early);
    let start = r#"{"action_type":"InstanceStart"}"#;
    vmm.refuses(
        "PUT",
        "/actions",
        start,
        "Cannot start microvm without kernel configuration.",
    );

    // A vsock's path that exists is not taken over.
    let path = vmm.path("v");
    let listener = UnixListener::bind(&path).unwrap();
    let vsock = format!(r#"{{"guest_cid":3,"uds_path":"{}"}}"#, path.display());
    vmm.refuses("PUT", "/vsock", &vsock, "in use (os error 98)");
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    vmm.takes("PUT", "/vsock", &vsock);

    // What was said is for a boot, so no snapshot can be loaded any more.
    let load = r#"{"snapshot_path":"/tmp/a","mem_backend":{"backend_type":"File","backend_path":"/tmp/b"}}"#;
    vmm.refuses(
        "PUT",
        "/snapshot/load",
        load,
        "not allowed after configuring boot-specific resources",
    );

    // Nor is the API's.
    let mut second = command(&vmm.path("api")).spawn().unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(1));
    let mut wrong = Command::new(program().0);
    let wrong = wrong
        .arg("--colour")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert_eq!(wrong.status().unwrap().code(), Some(153));
}

#[test]
fn a_snapshot_that_cannot_be_loaded_ends_the_process() {
    let mut vmm = Vmm::start();
    let load = r#"{"snapshot_path":"/nowhere/a","mem_backend":{"backend_type":"File","backend_path":"/nowhere/b"}}"#;
    vmm.refuses("PUT", "/snapshot/load", load, "Load snapshot error");
    assert!(!vmm.child.wait().unwrap().success());
    // And its socket stays.
    assert!(vmm.path("api").exists());
}
