//! VMs on a bridge, on two hosts that are network namespaces.

mod shell;
mod world;

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
