//! VMs on a bridge, and in user mode, on two hosts that are network namespaces.

pub(crate) mod shell;
mod user;
pub(crate) mod world;

use std::net::{Ipv4Addr, TcpListener};

use hostler_vmm::{CreateError, CreateVm, PortError, PortForward, PortForwardError, Resource, Vm};

use self::shell::Shell;
use self::world::{HERE, METADATA, Namespace, THERE, two_hosts};
use crate::support::{Host, PATIENCE, forward, small};

const RANGE: &str = "10.77.0.0/16";

/// Creates a VM that the shell opens, and starts it.
async fn start(host: &Host, name: &str, shell: &Shell, port_forwards: Vec<PortForward>) -> Vm {
    let request = CreateVm {
        ssh_public_key: Some(shell.public_key()),
        port_forwards,
        ..small(name)
    };
    host.machines.create(request).await.unwrap();
    host.machines.start(name).await.unwrap()
}

fn everywhere(host_port: u16, guest_port: u16) -> PortForward {
    PortForward {
        bind: Ipv4Addr::UNSPECIFIED,
        ..forward(host_port, guest_port)
    }
}

/// What is left of the network of a host without VMs: nothing, and no lease.
fn assert_nothing_is_left(here: &Namespace, host: &Host) {
    assert_eq!(here.traces(), Vec::<String>::new());
    let book = std::fs::read_to_string(host.data_dir().join("network.json")).unwrap();
    assert!(book.contains("\"leases\": []"), "{book}");
}

#[test]
fn a_guest_reaches_the_world_and_neither_its_neighbour_nor_what_is_the_hosts() {
    let Some((here, there)) = two_hosts() else {
        return;
    };
    there.tell_callers_who_they_are(80);
    here.tell_callers_who_they_are(7000);
    let questions = there.hear_datagrams(53);
    // The host itself reaches the metadata, so there is something to keep guests from.
    assert_eq!(here.ask(METADATA, 80), Some(format!("caller {HERE}\n")));

    here.block_on(async || {
        let host = Host::bridged(RANGE).await;
        let shell = Shell::new();
        let (one, two) = tokio::join!(
            start(&host, "one", &shell, Vec::new()),
            start(&host, "two", &shell, Vec::new()),
        );
        assert_ne!(one.ip_address, two.ip_address);
        host.until_ready("two").await;
        assert!(
            here.greeting(&two.ip_address.to_string(), 80)
                .contains("two")
        );
        let status = host.machines.status().await.unwrap().network;
        let bridge = status.bridge.unwrap();
        assert_eq!((bridge.leases_used, bridge.leases_total), (2, 253));
        assert!(bridge.subnet.contains(one.ip_address), "{bridge:?}");

        let (gateway, neighbour) = (bridge.gateway, two.ip_address);
        // A name that is asked for tells the other host who asks. The last lines change the
        // guest's addresses while nobody speaks with it, and change them back.
        let script = format!(
            "ask() {{ echo \"$1: $(nc -w 3 $2 $3 </dev/null 2>&1 | head -n 1)\"; }}
             ask world {THERE} 80; ask neighbour {neighbour} 80; ask metadata {METADATA} 80
             ask host {gateway} 7000; ask host-outside {HERE} 7000
             ask loopback 127.0.0.1 7000
             ip route add 127.0.0.2/32 via {gateway} 2>/dev/null
             ping -c 1 -W 3 {gateway} >/dev/null && echo gateway: answers
             ping -c 1 -W 3 {neighbour} >/dev/null && echo neighbour: answers
             arping -c 2 -w 2 -I eth0 {neighbour} >/dev/null && echo neighbour: has an address
             timeout 2 nslookup honest.example {THERE} >/dev/null 2>&1
             ip addr add 10.77.0.9/32 dev eth0
             ip route change default via {gateway} src 10.77.0.9 2>&1
             timeout 2 nslookup spoofed.example {THERE} >/dev/null 2>&1
             ip route change default via {gateway} src {own}
             mac=$(cat /sys/class/net/eth0/address)
             ip link set eth0 address 02:00:00:00:00:09 && echo mac: changed
             timeout 2 nslookup disguised.example {THERE} >/dev/null 2>&1
             ip link set eth0 address $mac
             timeout 4 nslookup again.example {THERE} >/dev/null 2>&1
             echo done",
            own = one.ip_address,
        );
        let said = shell.run(one.ip_address, &script);
        assert!(said.contains(&format!("world: caller {HERE}\n")), "{said}");
        for refused in ["neighbour", "metadata", "host", "host-outside"] {
            assert!(!said.contains(&format!("{refused}: caller")), "{said}");
        }
        assert!(said.contains("gateway: answers"), "{said}");
        assert!(
            !said.contains("neighbour: answers") && !said.contains("has an address"),
            "{said}"
        );
        assert!(
            said.contains("mac: changed") && said.contains("done"),
            "{said}"
        );
        let here_address = Some(HERE.parse().unwrap());
        assert_eq!(questions.from("honest"), here_address, "{said}");
        assert_eq!(questions.from("again"), here_address, "{said}");
        assert_eq!(questions.from("spoofed"), None, "{said}");
        assert_eq!(questions.from("disguised"), None, "{said}");

        for vm in ["one", "two"] {
            host.machines.delete(vm, true).await.unwrap();
        }
        assert_nothing_is_left(&here, &host);
        host.clear().await;
    });
}

#[test]
fn ports_lead_in_from_where_they_should_whoever_else_is_there_and_outlive_their_daemon() {
    let Some((here, there)) = two_hosts() else {
        return;
    };
    here.block_on(async || {
        let host = Host::bridged(RANGE).await;
        // Another daemon on the same machine, with a VM of the same name.
        let other = Host::bridged(RANGE).await;
        let shell = Shell::new();
        let forwards = vec![forward(8080, 80), everywhere(8081, 80)];
        let (vm, twin) = tokio::join!(
            start(&host, "web-1", &shell, forwards.clone()),
            start(&other, "web-1", &shell, vec![everywhere(8082, 80)]),
        );
        assert_ne!(vm.ip_address, twin.ip_address);

        for (address, port) in [("127.0.0.1", 8080), ("127.0.0.1", 8081), (HERE, 8081)] {
            here.greeting(address, port);
        }
        there.greeting(HERE, 8081);
        there.greeting(HERE, 8082);
        assert_eq!(
            there.ask(HERE, 8080),
            None,
            "a private port is open to others"
        );

        // A guest of another host is outside too, and a neighbour at the other daemon's.
        let said = tokio::task::block_in_place(|| from_a_guest_of(&there, &shell));
        assert!(
            said.contains("public: HTTP") && !said.contains("private: HTTP"),
            "{said}"
        );
        let script = format!("nc -w 3 {} 80 </dev/null && echo reached", twin.ip_address);
        assert_eq!(shell.run(vm.ip_address, &script), "");

        // The same again changes nothing, a new one works at once.
        let rules = here.run("nft", &["list", "ruleset"]);
        let again = host
            .machines
            .port_forward("web-1", forwards[0])
            .await
            .unwrap();
        assert_eq!(again.port_forwards, forwards);
        assert_eq!(here.run("nft", &["list", "ruleset"]), rules);
        host.machines
            .port_forward("web-1", everywhere(8083, 80))
            .await
            .unwrap();
        there.greeting(HERE, 8083);

        // What belongs to nobody is reported.
        assert_eq!(host.machines.leaks().await, []);
        let stray = format!("ht{}-fffe", instance(&host));
        here.ip(&format!("tuntap add dev {stray} mode tap"));
        let leaks = host.machines.leaks().await;
        assert!(leaks.len() == 1 && leaks[0].what == stray, "{leaks:?}");
        here.ip(&format!("link del dev {stray}"));

        // A port in use is refused before anything changes, whoever has it.
        let rules = here.run("nft", &["list", "ruleset"]);
        let _listener = TcpListener::bind("127.0.0.1:8090").unwrap();
        for (machines, port) in [(&host, 8090), (&other, 8080)] {
            let wanted = forward(port, 80);
            let error = machines
                .machines
                .port_forward("web-1", wanted)
                .await
                .unwrap_err();
            let is_taken = matches!(error, PortForwardError::Port(PortError::Taken { .. }));
            assert!(is_taken, "{error}");
        }
        assert_eq!(here.run("nft", &["list", "ruleset"]), rules);
        assert!(
            TcpListener::bind("127.0.0.1:8080").is_err(),
            "a port has two owners"
        );

        // The daemon dies; meanwhile rules are lost, and a device is left that is nobody's.
        let tables = here.run("nft", &["list", "tables"]);
        let mine = tables
            .lines()
            .find(|line| line.contains(&instance(&host)))
            .unwrap();
        let stray = format!("ht{}-ffff", instance(&host));
        let host = host
            .restart_after(|| {
                here.run(
                    "nft",
                    &[
                        "delete",
                        "table",
                        "inet",
                        mine.split(' ').next_back().unwrap(),
                    ],
                );
                here.ip(&format!("tuntap add dev {stray} mode tap"));
            })
            .await;
        let found = here.run("nft", &["list", "ruleset"]);
        assert_eq!(sorted(&found), sorted(&rules));
        there.greeting(HERE, 8083);
        here.greeting("127.0.0.1", 8080);
        assert!(
            !here.ip("-o link show").contains(&stray),
            "a stray device is still there"
        );
        assert!(
            TcpListener::bind("127.0.0.1:8080").is_err(),
            "a port has two owners"
        );

        // A VM that is stopped has no port, one that starts again has them all.
        let traces = here.traces().len();
        host.machines.stop("web-1", PATIENCE).await.unwrap();
        assert!(here.traces().len() < traces);
        assert_eq!(there.ask(HERE, 8083), None);
        there.greeting(HERE, 8082);
        host.machines.start("web-1").await.unwrap();
        there.greeting(HERE, 8083);

        // And with the VM everything goes, and nothing of the other daemon's.
        host.machines.delete("web-1", true).await.unwrap();
        let left = here.traces();
        assert!(
            !left.iter().any(|trace| trace.contains(&instance(&host))),
            "{left:?}"
        );
        there.greeting(HERE, 8082);
        other.machines.delete("web-1", true).await.unwrap();
        assert_nothing_is_left(&here, &host);
        assert_nothing_is_left(&here, &other);
        host.clear().await;
        other.clear().await;
    });
}

/// What a guest of this host sees of the ports of the first host.
fn from_a_guest_of(there: &Namespace, shell: &Shell) -> String {
    there.block_on(async || {
        let host = Host::bridged(RANGE).await;
        let guest = start(&host, "far", shell, Vec::new()).await;
        let script = format!(
            "ask() {{ echo \"$1: $(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {HERE} $2 2>&1 \
             | head -n 1)\"; }}; ask public 8081; ask private 8080"
        );
        let said = shell.run(guest.ip_address, &script);
        host.clear().await;
        said
    })
}

fn instance(host: &Host) -> String {
    let book = std::fs::read_to_string(host.data_dir().join("network.json")).unwrap();
    let (_, rest) = book.split_once("\"instance\": \"").unwrap();
    rest[..8].to_owned()
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_full_subnet_is_an_error_and_gives_nobody_anothers_address() {
    let Some((here, _there)) = two_hosts() else {
        return;
    };
    here.block_on(async || {
        let host = Host::bridged("10.77.9.0/30").await;
        let one = host.machines.create(small("one")).await.unwrap();
        let error = host.machines.create(small("two")).await.unwrap_err();
        let CreateError::Capacity(short) = &error else {
            panic!("{error}")
        };
        assert_eq!(short.resource, Resource::Addresses);
        assert!(
            error.to_string().contains("addresses on its bridge"),
            "{error}"
        );
        // Whoever is asked: the lease is the VM's although it does not run.
        let host = host.restart().await;
        assert!(host.machines.create(small("two")).await.is_err());
        host.machines.delete("one", false).await.unwrap();
        let two = host.machines.create(small("two")).await.unwrap();
        assert_eq!(two.ip_address, one.ip_address);
        host.clear().await;
    });
}

#[test]
fn a_subnet_that_the_host_has_a_route_to_is_not_chosen() {
    let Some((here, _there)) = two_hosts() else {
        return;
    };
    here.ip(&format!("route add 10.77.9.0/25 via {THERE}"));
    here.block_on(async || {
        let mut config = hostler_vmm::Config::new(tempfile::tempdir().unwrap().path());
        config.network = hostler_vmm::NetworkChoice::Bridge;
        config.bridge_range = "10.77.9.0/24".parse().unwrap();
        let error = hostler_vmm::Machines::open(config.clone())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("--bridge-range"), "{error}");
        config.bridge_range = "10.77.8.0/23".parse().unwrap();
        let machines = hostler_vmm::Machines::open(config).await.unwrap();
        let bridge = machines.status().await.unwrap().network.bridge.unwrap();
        assert_eq!(bridge.subnet.to_string(), "10.77.8.0/24");
    });
}
