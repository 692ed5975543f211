//! Two hosts and a wire between them: network namespaces, in which threads of this test live.
//!
//! What needs root says so and is left out for others; nothing outside of the namespaces changes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::PATIENCE;

/// The host that runs VMs, on the wire.
pub(crate) const HERE: &str = "192.0.2.1";
/// The other host, which for guests of the first is the world.
pub(crate) const THERE: &str = "192.0.2.2";
/// Where clouds keep what their machines are told; the other host plays it.
pub(crate) const METADATA: &str = "169.254.169.254";

/// A network namespace that is removed at the end.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hostler-test-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        Self { name }
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `ip` in here.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let words = arguments.split(' ');
        run(Command::new("ip").args(["-n", &self.name]).args(words))
    }

    /// Runs a program in here.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let program = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(arguments)
            .output();
        said(program.unwrap())
    }

    /// Does some work with the thread in here.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.path());
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Does some work with all threads of a runtime in here.
    pub(crate) fn block_on<F>(&self, work: impl FnOnce() -> F + Send) -> F::Output
    where
        F: Future,
        F::Output: Send,
    {
        let path = self.path();
        self.within(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .on_thread_start(move || enter(&path))
                .build();
            runtime.unwrap().block_on(work())
        })
    }

    /// Answers every connection to this port with the address that it came from.
    pub(crate) fn tell_callers_who_they_are(&self, port: u16) {
        let listener = self.within(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let caller = stream.peer_addr().map(|peer| peer.ip().to_string());
                let _ = writeln!(stream, "caller {}", caller.unwrap_or_default());
                // A connection that is closed with something unread takes the answer with it.
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
    }

    /// Writes down what comes in as datagrams on this port.
    pub(crate) fn hear_datagrams(&self, port: u16) -> Heard {
        let socket = self.within(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        let heard = Heard::default();
        let book = heard.0.clone();
        std::thread::spawn(move || {
            let mut datagram = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                book.lock()
                    .unwrap()
                    .push((from.ip(), datagram[..length].to_vec()));
            }
        });
        heard
    }

    /// What a server says to who connects from here, if anything.
    pub(crate) fn ask(&self, address: &str, port: u16) -> Option<String> {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        self.within(|| talk(address).ok())
    }

    /// The same, as soon as it is a greeting of a guest.
    pub(crate) fn greeting(&self, address: &str, port: u16) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask(address, port) {
                Some(said) if said.contains("Hello") => return said,
                other => assert!(Instant::now() < deadline, "no greeting: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Everything of ours that is on this host: interfaces and tables.
    pub(crate) fn traces(&self) -> Vec<String> {
        let links = self.ip("-o link show");
        let links = links
            .lines()
            .filter(|line| line.contains(": hb") || line.contains(": ht"));
        let tables = self.run("nft", &["list", "tables"]);
        let tables = tables.lines().filter(|line| line.contains("hostler_"));
        links.chain(tables).map(str::to_owned).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Datagrams that came in, with who sent them.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Packet>>>);

/// From whom, and what.
type Packet = (IpAddr, Vec<u8>);

impl Heard {
    /// Who sent a datagram with this text in it.
    pub(crate) fn from(&self, text: &str) -> Option<IpAddr> {
        let heard = self.0.lock().unwrap();
        let has = |datagram: &[u8]| {
            datagram
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        heard
            .iter()
            .find(|(_, datagram)| has(datagram))
            .map(|(from, _)| *from)
    }
}

/// The two hosts; `None` for who may not make them, which is said.
pub(crate) fn two_hosts() -> Option<(Namespace, Namespace)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: network namespaces need root");
        return None;
    }
    let (here, there) = (Namespace::new(), Namespace::new());
    let wire = format!(
        "link add wire type veth peer name wire netns {}",
        there.name
    );
    here.ip(&wire);
    for (host, address) in [(&here, HERE), (&there, THERE)] {
        host.ip("link set lo up");
        host.ip(&format!("addr add {address}/24 dev wire"));
        host.ip("link set wire up");
    }
    here.ip(&format!("route add default via {THERE}"));
    there.ip(&format!("addr add {METADATA}/32 dev lo"));
    Some((here, there))
}

fn enter(namespace: &Path) {
    let file = File::open(namespace).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn talk(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn run(command: &mut Command) -> String {
    said(command.output().unwrap())
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
