//! A network namespace with one cable to this machine, which can be cut: what is sent then is lost,
//! and nobody is told.

use std::net::Ipv4Addr;
use std::process::Command;

pub(crate) struct Island {
    name: String,
    /// Which of the networks 10.213.0.0/16 in pieces of four is the cable's.
    piece: u16,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{program} {arguments:?}: {said}");
    }
    output.status.success()
}

impl Island {
    /// Only root may make one.
    pub(crate) fn new() -> Self {
        let piece = (std::process::id() % 0x4000) as u16;
        let name = format!("hostler-t{piece}");
        let island = Self { name, piece };
        let (here, there) = (island.cable('a'), island.cable('b'));
        let address = |of: Ipv4Addr| format!("{of}/30");
        let ip = |arguments: &str| {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            assert!(run("ip", &arguments), "a network namespace cannot be made");
        };
        let name = island.name();
        ip(&format!("netns add {name}"));
        ip(&format!(
            "link add {here} type veth peer name {there} netns {name}"
        ));
        ip(&format!(
            "addr add {} dev {here}",
            address(island.mainland())
        ));
        ip(&format!("link set {here} up"));
        ip(&format!(
            "-n {name} addr add {} dev {there}",
            address(island.address())
        ));
        ip(&format!("-n {name} link set {there} up"));
        ip(&format!("-n {name} link set lo up"));
        island
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn cable(&self, end: char) -> String {
        format!("ht{}{end}", self.piece)
    }

    fn at(&self, offset: u16) -> Ipv4Addr {
        let [high, low] = (self.piece * 4 + offset).to_be_bytes();
        Ipv4Addr::new(10, 213, high, low)
    }

    /// The address of this machine, as seen from there.
    pub(crate) fn mainland(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// The address there, as seen from this machine.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.at(2)
    }

    /// Loses everything that is sent, in both directions.
    pub(crate) fn cut(&self) {
        let chain = |hook: &str, device: &str| {
            format!("chain {hook} {{ type filter hook {hook} priority 0; {device} != lo drop; }};")
        };
        let (into, out) = (chain("input", "iif"), chain("output", "oif"));
        self.nft(&format!("table inet cut {{ {into} {out} }}"));
    }

    /// Loses nothing any more.
    pub(crate) fn join(&self) {
        self.nft("delete table inet cut");
    }

    fn nft(&self, rules: &str) {
        let done = run("ip", &["netns", "exec", &self.name, "nft", rules]);
        assert!(done, "the cable cannot be cut or joined");
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // By itself the cable would go only when the last connection over it is forgotten.
        run("ip", &["link", "delete", &self.cable('a')]);
        run("ip", &["netns", "delete", &self.name]);
    }
}
