//! What placement promises.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

/// An online regular host with `cores`, `memory_mb` and 100 GiB of disk.
fn host(name: &str, cores: u32, memory_mb: u64) -> Candidate {
    let host = Host {
        id: HostId::named(name),
        kind: HostType::Regular,
        team_id: None,
        provider: None,
        availability_zone: None,
        arch: Some("x86_64".into()),
        cpu_cores: Some(cores),
        memory_mb: Some(memory_mb),
        disk_gb: Some(100),
        address: Some("192.0.2.1:9443".into()),
        status: HostStatus::Online,
        cordoned: false,
        tags: Vec::new(),
        last_heartbeat_at: None,
        created_by: "test".into(),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    Candidate {
        host,
        reserved: Resources::default(),
    }
}

fn demand(cpus: u64, memory_mb: u64) -> Demand {
    let resources = Resources {
        cpus,
        memory_mb,
        disk_mb: 1024,
    };
    Demand {
        resources,
        ..Demand::default()
    }
}

fn tag(text: &str) -> Tag {
    Tag::try_from(text.to_owned()).expect("a tag")
}

#[test]
fn a_vm_goes_where_the_scarcest_resource_stays_freest() {
    // "wide" has most cores, but its memory would be nearly used up.
    let hosts = [
        host("a-wide", 64, 1100),
        host("b-even", 4, 8192),
        host("c-small", 2, 4096),
    ];
    assert_eq!(
        place(&demand(1, 1024), &hosts).expect("fits").as_str(),
        "b-even"
    );
}

#[test]
fn between_equals_the_older_host_is_taken() {
    let hosts = [
        host("host-2", 4, 4096),
        host("host-1", 4, 4096),
        host("host-3", 4, 4096),
    ];
    assert_eq!(
        place(&demand(1, 512), &hosts).expect("fits").as_str(),
        "host-1"
    );
}

#[test]
fn hosts_that_cannot_take_it_are_passed_over() {
    let mut offline = host("offline", 64, 65536);
    offline.host.status = HostStatus::Unreachable;
    let mut cordoned = host("cordoned", 64, 65536);
    cordoned.host.cordoned = true;
    let mut arm = host("arm", 64, 65536);
    arm.host.arch = Some("aarch64".into());
    let mut fitting = host("fitting", 1, 1024);
    fitting.host.tags = vec![tag("ssd")];
    let wanted = Demand {
        arch: Some("x86_64".into()),
        tags: BTreeSet::from([tag("ssd")]),
        ..demand(1, 512)
    };
    let hosts = [offline, cordoned, arm, host("untagged", 64, 65536), fitting];
    assert_eq!(place(&wanted, &hosts).expect("fits").as_str(), "fitting");

    let none = place(&wanted, &hosts[..4]).expect_err("none is left");
    assert_eq!(
        none.to_string(),
        "it fits on none of 4 hosts: 1 is not online, 1 is cordoned, 1 has another architecture, \
         1 lacks a required tag; free something, add a host, or ask for less"
    );
}

#[test]
fn the_refusal_says_which_limit_failed_on_how_many_hosts() {
    let mut full = host("full", 1, 4096);
    full.reserved = Resources {
        cpus: 4,
        memory_mb: 4096,
        disk_mb: 0,
    };
    let hosts = [full, host("small", 8, 1024)];
    let none = place(&demand(1, 2048), &hosts).expect_err("too large");
    assert_eq!(
        none.lacking,
        BTreeMap::from([(Lack::Cpus, 1), (Lack::Memory, 2)])
    );
    assert!(
        none.to_string().contains("2 have too little free memory"),
        "{none}"
    );
    let nothing = place(&demand(1, 512), &[]).expect_err("no hosts");
    assert!(nothing.to_string().contains("no host"), "{nothing}");
}

#[test]
fn a_teams_own_host_takes_only_its_vms_and_is_not_counted_for_others() {
    let mut byoc = host("byoc", 64, 65536);
    byoc.host.kind = HostType::Byoc;
    byoc.host.team_id = Some(TeamId::named("team-a"));
    let of = |team: Option<&str>| Demand {
        team: team.map(TeamId::named),
        ..demand(1, 512)
    };
    let hosts = [byoc];
    assert!(place(&of(Some("team-a")), &hosts).is_ok());
    for other in [Some("team-b"), None] {
        assert_eq!(place(&of(other), &hosts).expect_err("not theirs").hosts, 0);
    }
}

#[test]
fn a_named_host_is_the_only_one_considered() {
    let hosts = [host("a", 64, 65536), host("b", 1, 1024)];
    let named = Demand {
        host: Some(HostId::named("b")),
        ..demand(1, 512)
    };
    assert_eq!(place(&named, &hosts).expect("fits").as_str(), "b");
    let too_large = Demand {
        host: Some(HostId::named("b")),
        ..demand(1, 4096)
    };
    assert_eq!(place(&too_large, &hosts).expect_err("too large").hosts, 1);
}

#[test]
fn a_host_that_did_not_say_how_large_it_is_takes_nothing() {
    let mut silent = host("silent", 4, 4096);
    silent.host.disk_gb = None;
    let none = place(&demand(1, 512), &[silent]).expect_err("unknown");
    assert_eq!(none.lacking, BTreeMap::from([(Lack::Size, 1)]));
}

proptest! {
    /// Whatever comes, no host is promised more than it has, and a VM is refused only when it
    /// fits nowhere.
    #[test]
    fn placement_never_overcommits_and_never_refuses_what_fits(
        sizes in prop::collection::vec((1_u32..9, 512_u64..16384), 1..6),
        vms in prop::collection::vec((1_u64..9, 128_u64..4096), 0..40),
    ) {
        let mut hosts: Vec<Candidate> = sizes
            .iter()
            .enumerate()
            .map(|(n, (cores, memory_mb))| host(&format!("host-{n}"), *cores, *memory_mb))
            .collect();
        for (cpus, memory_mb) in vms {
            let wanted = demand(cpus, memory_mb);
            let fits = |c: &Candidate| {
                let total = capacity(&c.host).expect("known");
                c.reserved.cpus + cpus <= total.cpus
                    && c.reserved.memory_mb + memory_mb <= total.memory_mb
                    && c.reserved.disk_mb + 1024 <= total.disk_mb
            };
            let fitting = hosts.iter().any(fits);
            let placed = place(&wanted, &hosts).ok().cloned();
            prop_assert_eq!(placed.is_some(), fitting);
            if let Some(id) = placed {
                let chosen = hosts.iter_mut().find(|c| c.host.id == id).expect("one of them");
                prop_assert!(fits(chosen));
                chosen.reserved.cpus += cpus;
                chosen.reserved.memory_mb += memory_mb;
                chosen.reserved.disk_mb += 1024;
            }
        }
    }
}
