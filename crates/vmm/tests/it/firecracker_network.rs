//! VMs on Firecracker that are on a bridge, on a host that is a network namespace.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use hostler_vmm::{CreateVm, NetworkChoice, VmState};

use crate::firecracker::Site;
use crate::network::world::two_hosts;
use crate::support::{PATIENCE, forward, free_port, small};

/// What the VM's Firecracker says of its machine.
fn configuration(control: &Path) -> String {
    let mut stream = UnixStream::connect(control).unwrap();
    stream
        .write_all(b"GET /vm/config HTTP/1.1\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let mut chunk = [0; 4096];
    // The answer is one object, and the connection stays open.
    while !answer.contains("network-interfaces") || !answer.ends_with('}') {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    answer
}

#[test]
fn on_a_bridge_a_vm_on_firecracker_has_a_device_and_ports() {
    let Some((here, _there)) = two_hosts() else {
        return;
    };
    here.block_on(async || {
        let site = Site::with(|config| {
            config.network = NetworkChoice::Bridge;
            config.bridge_range = "10.77.0.0/16".parse().unwrap();
        });
        let site = site.await;
        let machines = &site.host.machines;
        machines.images().pull(&|_| {}).await.unwrap();
        let status = machines.status().await.unwrap();
        assert!(status.drivers[0].capabilities.unwrap().port_forwards);

        let request = CreateVm {
            port_forwards: vec![forward(free_port(), 80)],
            ..small("web-1")
        };
        let vm = machines.create(request).await.unwrap();
        assert!(vm.ip_address.to_string().starts_with("10.77."), "{vm:?}");
        machines.start("web-1").await.unwrap();
        site.host.until_ready("web-1").await;
        let control = site.host.data_dir().join("vms/web-1/control.sock");
        let configuration = configuration(&control);
        assert!(configuration.contains(&vm.mac_address), "{configuration}");
        let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let mut names = devices.lines().filter_map(|line| line.split_once(':'));
        let has_tap = names.any(|(name, _)| {
            configuration.contains(&format!("\"host_dev_name\":\"{}\"", name.trim()))
        });
        assert!(has_tap, "{configuration}\n{devices}");

        let later = forward(free_port(), 22);
        machines.port_forward("web-1", later).await.unwrap();
        let stopped = machines.stop("web-1", PATIENCE).await.unwrap();
        assert_eq!(stopped.state, VmState::Stopped);
        site.assert_at_rest("web-1").await;
        site.host.clear().await;
    });
    assert_eq!(here.traces(), Vec::<String>::new());
}
