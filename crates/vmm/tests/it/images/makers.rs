//! The programs that make and keep images for these tests: umoci, skopeo, docker-registry; and
//! e2fsprogs, which says what came out.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use hostler_vmm::{Image, ImportImage, ImportImageError, Machines};

use crate::support::{Host, PATIENCE, eventually, free_port};

/// Runs a program to its end; returns what it printed.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory in which images are made.
pub(super) struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    /// With a layout of an image `1` that has no layers yet.
    pub(super) fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workshop = Self { dir };
        let layout = workshop.layout();
        run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
        workshop.umoci("new", &[]);
        workshop
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn layout(&self) -> PathBuf {
        self.path("layout")
    }

    fn umoci(&self, command: &str, arguments: &[&str]) {
        let image = format!("{}:1", self.layout().display());
        run(
            "umoci",
            &[&[command, "--image", &image], arguments].concat(),
        );
    }

    /// A layer with these files: path, permissions, content.
    pub(super) fn layer(&self, files: &[(&str, u32, &[u8])]) {
        use std::os::unix::fs::PermissionsExt as _;
        let root = self.path("layer");
        fs::create_dir(&root).unwrap();
        for (path, mode, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        self.layer_of(&root);
        fs::remove_dir_all(&root).unwrap();
    }

    /// A layer of a directory.
    pub(super) fn layer_of(&self, root: &Path) {
        self.umoci("insert", &["--rootless", root.to_str().unwrap(), "/"]);
    }

    /// A layer that hides what is at a path.
    pub(super) fn hide(&self, path: &str) {
        self.umoci("insert", &["--rootless", "--whiteout", path]);
    }

    pub(super) fn configure(&self, arguments: &[&str]) {
        self.umoci("config", arguments);
    }

    /// Copies the image to where skopeo says.
    pub(super) fn copy_to(&self, target: &str) {
        let from = format!("oci:{}:1", self.layout().display());
        let arguments = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
        run("skopeo", &[&arguments[..], &[&from, target]].concat());
    }
}

/// busybox with a shell, and nothing else: an image as small as they come, without an init.
pub(super) fn busybox(workshop: &Workshop) {
    let root = workshop.path("busybox");
    fs::create_dir_all(root.join("bin")).unwrap();
    let program = ["/bin/busybox", "/usr/bin/busybox"];
    let program = program.iter().find(|path| Path::new(path).exists());
    fs::copy(program.expect("busybox-static"), root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    workshop.layer_of(&root);
}

/// Debian's docker-registry, on a port of its own.
pub(super) struct Registry {
    process: Child,
    address: Ipv4Addr,
    pub(super) port: u16,
    /// Its files, for as long as it lives.
    _dir: tempfile::TempDir,
}

impl Registry {
    pub(super) fn start() -> Self {
        Self::start_with("")
    }

    /// With more in its configuration.
    pub(super) fn start_with(more: &str) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, "", more)
    }

    /// At an address of this machine, with more about its HTTP.
    pub(super) fn start_at(address: Ipv4Addr, http: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {}/data}}}}\n\
             http: {{addr: \"{address}:{port}\"{http}}}\n{more}",
            dir.path().display()
        );
        fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((address, port)).is_err() {
            assert!(process.try_wait().unwrap().is_none(), "the registry ended");
            assert!(Instant::now() < deadline, "the registry does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self {
            process,
            address,
            port,
            _dir: dir,
        }
    }

    /// What an image is called in it.
    pub(super) fn name(&self, image: &str) -> String {
        format!("{}:{}/{image}", self.address, self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn request(source: impl Into<String>, name: &str) -> ImportImage {
    ImportImage {
        source: source.into(),
        name: name.parse().unwrap(),
        size_mb: None,
        credentials: None,
    }
}

pub(super) async fn import(
    machines: &Machines,
    source: impl Into<String>,
    name: &str,
) -> Result<Image, ImportImageError> {
    machines
        .images()
        .import(request(source, name), &|_| {})
        .await
}

/// An image's file system, as e2fsprogs sees it.
pub(super) struct Disk(PathBuf);

impl Disk {
    pub(super) fn of(host: &Host, name: &str) -> Self {
        Self(host.data_dir().join("images").join(name).join("root.ext4"))
    }

    /// Everything about it is sound.
    pub(super) fn check(&self) {
        run("e2fsck", &["-f", "-n", self.0.to_str().unwrap()]);
    }

    pub(super) fn debugfs(&self, command: &str) -> String {
        run("debugfs", &["-R", command, self.0.to_str().unwrap()])
    }

    pub(super) fn read(&self, path: &str) -> String {
        self.debugfs(&format!("cat \"{path}\""))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        !self.debugfs(&format!("stat \"{path}\"")).is_empty()
    }

    /// The value after a word in what is said of a file, as in `Mode:  04755`.
    pub(super) fn says(&self, path: &str, word: &str) -> String {
        let stat = self.debugfs(&format!("stat \"{path}\""));
        let mut words = stat.split_whitespace();
        words.find(|said| *said == word);
        words.next().unwrap_or_default().to_owned()
    }

    /// How many names the image's file has on the host.
    pub(super) fn names_on_host(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&self.0).unwrap().nlink()
    }
}

/// What is in a directory of a host's data.
pub(super) fn left_in(host: &Host, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(host.data_dir().join(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Nothing of any image is on the host, as soon as work that was given up has noticed.
pub(super) async fn assert_nothing_left(host: &Host) {
    for directory in ["images", "blobs"] {
        let empty = || left_in(host, directory).is_empty();
        eventually(&format!("{directory} is empty"), empty).await;
    }
}
