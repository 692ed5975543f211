//! VMs in user mode on a host that keeps its guests from itself.

use std::net::Ipv4Addr;

use hostler_vmm::{LeakKind, PortForward, Protocol};

use super::shell::Shell;
use super::world::{HERE, METADATA, Namespace, THERE, two_hosts};
use super::{everywhere, start};
use crate::support::{Host, PATIENCE, eventually, forward, processes_of, small};

/// The name server that this machine is configured to ask.
fn name_server() -> Ipv4Addr {
    let configured = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut servers = configured
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    servers
        .find_map(|address| address.trim().parse().ok())
        .expect("a name server with an IPv4 address in /etc/resolv.conf")
}

/// Whether our rules are there, whole.
fn has_rules(host: &Namespace) -> bool {
    let rules = host.run("nft", &["list", "ruleset"]);
    rules.contains("meta skuid") && rules.contains("fib daddr type local drop")
}

/// The table's name.
fn table(host: &Namespace) -> String {
    let traces = host.traces();
    let [table] = &traces[..] else {
        panic!("{traces:?}")
    };
    table.split(' ').next_back().unwrap().to_owned()
}

#[test]
fn a_guest_in_user_mode_reaches_the_world_and_nothing_of_its_host() {
    let Some((here, there)) = two_hosts() else {
        return;
    };
    let server = name_server();
    if !server.is_loopback() {
        there.ip(&format!("addr add {server}/32 dev lo"));
    }
    let (inside, outside) = (here.hear_datagrams(53), there.hear_datagrams(53));
    there.tell_callers_who_they_are(80);
    here.tell_callers_who_they_are(7000);
    // The host itself reaches all of it, so there is something to keep guests from.
    for (address, port) in [(METADATA, 80), ("127.0.0.1", 7000), (HERE, 7000)] {
        assert!(here.ask(address, port).unwrap().contains("caller"));
    }

    here.block_on(async || {
        let host = Host::new().await;
        let status = host.machines.status().await.unwrap().network;
        let status = status.user_mode.unwrap();
        assert!(status.kept_from_host, "{status:?}");
        let shell = Shell::new();
        let over_udp = PortForward {
            protocol: Protocol::Udp,
            ..everywhere(5353, 5353)
        };
        let forwards = vec![forward(7022, 22), forward(7080, 80), over_udp];
        let (_one, _two) = tokio::join!(
            start(&host, "one", &shell, forwards),
            start(
                &host,
                "two",
                &shell,
                vec![forward(7180, 80), everywhere(7181, 80)]
            ),
        );
        for pid in processes_of(&host.data_dir()) {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(!status.contains("\nUid:\t0\t"), "{status}");
        }
        // Ports lead in, from wherever they should.
        for (address, port) in [("127.0.0.1", 7080), ("127.0.0.1", 7181), (HERE, 7181)] {
            here.greeting(address, port);
        }
        there.greeting(HERE, 7181);

        // The guest's own port over UDP is a socket from before QEMU gave up root: for a while its
        // questions are sent from there.
        let script = format!(
            "ask() {{ echo \"$1: $(nc -w 4 $2 $3 </dev/null 2>&1 | head -n 1)\"; }}
             ask metadata {METADATA} 80 & ask loopback 10.0.2.2 7000 &
             ask host-outside {HERE} 7000 & ask neighbour 10.0.2.2 7180 &
             ask neighbour-outside {HERE} 7181 & ask own 10.0.2.2 7080 &
             wait; ask world {THERE} 80
             query() {{ timeout 3 nslookup $1.example $2 >/dev/null 2>&1; }}
             query honest; query world {THERE}; query host {HERE}; query metadata {METADATA}
             echo 5353 5353 >/proc/sys/net/ipv4/ip_local_port_range && echo one port
             query forwarded-world {THERE}; query forwarded-host {HERE}
             query forwarded-metadata {METADATA}
             echo done"
        );
        let said = shell.run_at(7022, &script);
        assert!(said.contains(&format!("world: caller {HERE}\n")), "{said}");
        assert!(said.contains("done"), "{said}");
        assert_eq!(said.matches("caller").count(), 1, "{said}");
        assert!(!said.contains("HTTP"), "{said}");
        assert!(said.contains("one port"), "{said}");
        let resolver = if server.is_loopback() {
            &inside
        } else {
            &outside
        };
        assert!(resolver.from("honest").is_some(), "{said}");
        for (name, reached) in [("world", true), ("host", false), ("metadata", false)] {
            for name in [name.to_owned(), format!("forwarded-{name}")] {
                // Labels are preceded by their length.
                let label = format!("{}{name}", char::from(name.len() as u8));
                let heard = [&inside, &outside]
                    .iter()
                    .any(|heard| heard.from(&label).is_some());
                assert_eq!(heard, reached, "{name}: {said}");
            }
        }

        for vm in ["one", "two"] {
            assert_ne!(here.traces(), Vec::<String>::new());
            host.machines.delete(vm, true).await.unwrap();
        }
        eventually("the rules go", || here.traces().is_empty()).await;
        host.clear().await;
    });
}

#[test]
fn what_keeps_guests_from_their_host_comes_back_when_somebody_flushes_it_and_goes_with_them() {
    let Some((here, there)) = two_hosts() else {
        return;
    };
    there.tell_callers_who_they_are(80);
    here.block_on(async || {
        let host = Host::new().await;
        let shell = Shell::new();
        assert_eq!(here.traces(), Vec::<String>::new());
        start(&host, "one", &shell, vec![forward(7022, 22)]).await;
        let table = table(&here);
        assert!(has_rules(&here));
        host.until_ready("one").await;

        // Ports are added while it runs; those that only root may open when it does not.
        host.machines
            .port_forward("one", forward(7080, 80))
            .await
            .unwrap();
        here.greeting("127.0.0.1", 7080);
        let low = forward(88, 80);
        let error = host.machines.port_forward("one", low).await.unwrap_err();
        assert!(error.to_string().contains("stop the VM"), "{error}");

        here.run("nft", &["flush", "ruleset"]);
        eventually("the table is there again", || has_rules(&here)).await;
        here.run("nft", &["flush", "table", "inet", &table]);
        eventually("the rules are there again", || has_rules(&here)).await;
        let script = format!("nc -w 4 {METADATA} 80 </dev/null; echo done");
        assert_eq!(shell.run_at(7022, &script), "done\n");

        // The next daemon finds the VM, and nothing of the rules.
        let host = host
            .restart_after(|| drop(here.run("nft", &["delete", "table", "inet", &table])))
            .await;
        assert!(has_rules(&here));
        assert_eq!(shell.run_at(7022, &script), "done\n");
        assert_eq!(host.machines.leaks().await, []);

        host.machines.stop("one", PATIENCE).await.unwrap();
        eventually("the rules go", || here.traces().is_empty()).await;
        host.machines.port_forward("one", low).await.unwrap();
        host.machines.start("one").await.unwrap();
        here.greeting("127.0.0.1", 88);
        host.machines.delete("one", true).await.unwrap();
        eventually("the rules go", || here.traces().is_empty()).await;

        // What is there without a VM is reported, and removed by the next daemon.
        here.run("nft", &["add", "table", "inet", &table]);
        let leaks = host.machines.leaks().await;
        assert!(
            leaks.len() == 1 && leaks[0].kind == LeakKind::Rule,
            "{leaks:?}"
        );
        assert!(leaks[0].what.contains(&table), "{leaks:?}");
        let host = host.restart().await;
        assert_eq!(here.traces(), Vec::<String>::new());
        assert_eq!(host.machines.leaks().await, []);

        // A daemon that ends in good order takes them along.
        host.machines.create(small("two")).await.unwrap();
        host.machines.start("two").await.unwrap();
        host.machines.delete("two", true).await.unwrap();
        assert!(has_rules(&here));
        drop(host);
        eventually("the rules go", || here.traces().is_empty()).await;
    });
}

#[test]
fn what_a_daemon_left_that_is_gone_for_good_is_removed_by_the_next_and_nothing_of_others() {
    let Some((here, _there)) = two_hosts() else {
        return;
    };
    here.block_on(async || {
        let gone = Host::new().await;
        gone.machines.create(small("one")).await.unwrap();
        gone.machines.start("one").await.unwrap();
        let name = table(&here);
        let whole = here.run("nft", &["list", "table", "inet", &name]);
        let place = gone.data_dir().display().to_string();
        assert!(whole.contains(&format!(" {place}\"")), "{whole}");
        gone.clear().await;
        eventually("the rules go", || here.traces().is_empty()).await;

        let scratch = tempfile::tempdir().unwrap();
        let put = |number: u32, text: &str| {
            let file = scratch.path().join("rules");
            let other = format!("hostler_user_0000000{number}");
            std::fs::write(&file, text.replace(&name, &other)).unwrap();
            here.run("nft", &["-f", file.to_str().unwrap()]);
            other
        };
        let alive = whole.replace(&place, scratch.path().to_str().unwrap());
        let nameless = whole.replace(" comment \"hostler ", " comment \"");
        let nobodys = put(1, &whole);
        let kept = [put(2, &alive), put(3, &nameless)];
        // As when it was killed and its directory removed; the next one is somewhere else.
        let next = Host::new().await;
        let left = here.traces().join("\n");
        assert!(!left.contains(&nobodys), "{left}");
        assert!(kept.iter().all(|table| left.contains(table)), "{left}");
        next.clear().await;
    });
}

/// Says to the process that the test below begins with which `nft` it is to open its host.
const WITH_NFT: &str = "NETWORK_TEST_NFT";

#[tokio::test]
#[ignore = "it is run by the next test, in a process with another `PATH`"]
async fn open_beside_an_nft_that_is_put_there() {
    let Ok(nft) = std::env::var(WITH_NFT) else {
        panic!("{WITH_NFT} says which nft is beside it");
    };
    // A program that is open for writing cannot be run for now (ETXTBSY).
    let busy = std::fs::OpenOptions::new().append(true).open(&nft).unwrap();
    let ran = std::process::Command::new("nft").arg("--version").output();
    let ran = ran.map_err(|error| error.kind());
    assert_eq!(ran, Err(std::io::ErrorKind::ExecutableFileBusy));
    let host = Host::new().await;
    let status = host.machines.status().await.unwrap().network;
    eprintln!("kept: {}", status.user_mode.unwrap().kept_from_host);
    drop(busy);
    host.machines.create(small("one")).await.unwrap();
    let started = host.machines.start("one").await;
    eprintln!("started: {}", started.is_ok());
    let rules = std::process::Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    let rules = String::from_utf8_lossy(&rules.stdout).contains("fib daddr type local drop");
    eprintln!("rules: {rules}");
    host.clear().await;
}

#[test]
fn guests_are_kept_from_a_host_that_was_too_busy_to_be_asked_when_it_was_opened() {
    let Some((here, _there)) = two_hosts() else {
        return;
    };
    let open = |script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let nft = dir.path().join("nft");
        std::fs::write(&nft, script).unwrap();
        std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        here.within(|| {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "network::user::open_beside_an_nft_that_is_put_there",
                    "--exact",
                    "--ignored",
                    "--nocapture",
                ])
                .env(WITH_NFT, &nft)
                .env("PATH", format!("{}:{path}", dir.path().display()))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            said
        })
    };
    let said = open("#!/bin/sh\nPATH=/usr/sbin:/sbin:/usr/bin exec nft \"$@\"\n");
    for wanted in ["kept: true", "started: true", "rules: true"] {
        assert!(said.contains(wanted), "{said}");
    }
}
