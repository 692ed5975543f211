//! What placement promises.

use proptest::prelude::*;

use super::*;

/// An online regular host with `cores`, `memory_mb` and 100 GiB of disk.
fn host(name: &str, cores: u32, memory_mb: u64) -> Candidate {
    Candidate {
        id: HostId::named(name),
        kind: HostType::Regular,
        team: None,
        zone: None,
        arch: Some("x86_64".into()),
        status: HostStatus::Online,
        cordoned: false,
        tags: Vec::new(),
        total: Some(Resources {
            cpus: u64::from(cores) * CPU_OVERCOMMIT,
            memory_mb,
            disk_mb: 100 * 1024,
        }),
        reserved: Resources::default(),
        last_placed: 0,
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
        arch: None,
        tags: BTreeSet::new(),
        preferred: BTreeSet::new(),
        group: HashMap::new(),
        team: None,
        host: None,
        policy: Policy::LeastLoaded,
    }
}

/// The id of the host that is chosen.
fn chosen<'a>(demand: &Demand, among: &'a [Candidate]) -> &'a str {
    place(demand, among).expect("fits").host.id.as_str()
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
    assert_eq!(chosen(&demand(1, 1024), &hosts), "b-even");
}

#[test]
fn between_equals_the_older_host_is_taken() {
    let hosts = [
        host("host-2", 4, 4096),
        host("host-1", 4, 4096),
        host("host-3", 4, 4096),
    ];
    assert_eq!(chosen(&demand(1, 512), &hosts), "host-1");
}

#[test]
fn hosts_that_cannot_take_it_are_passed_over() {
    let mut offline = host("offline", 64, 65536);
    offline.status = HostStatus::Unreachable;
    let mut cordoned = host("cordoned", 64, 65536);
    cordoned.cordoned = true;
    let mut arm = host("arm", 64, 65536);
    arm.arch = Some("aarch64".into());
    let mut fitting = host("fitting", 1, 1024);
    fitting.tags = vec![tag("ssd")];
    let wanted = Demand {
        arch: Some("x86_64".into()),
        tags: BTreeSet::from([tag("ssd")]),
        ..demand(1, 512)
    };
    let hosts = [offline, cordoned, arm, host("untagged", 64, 65536), fitting];
    assert_eq!(chosen(&wanted, &hosts), "fitting");

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
    byoc.kind = HostType::Byoc;
    byoc.team = Some(TeamId::named("team-a"));
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
    assert_eq!(chosen(&named, &hosts), "b");
    let too_large = Demand {
        host: Some(HostId::named("b")),
        ..demand(1, 4096)
    };
    assert_eq!(place(&too_large, &hosts).expect_err("too large").hosts, 1);
}

#[test]
fn a_host_that_did_not_say_how_large_it_is_takes_nothing() {
    let mut silent = host("silent", 4, 4096);
    silent.total = None;
    let none = place(&demand(1, 512), &[silent]).expect_err("unknown");
    assert_eq!(none.lacking, BTreeMap::from([(Lack::Size, 1)]));
}

#[test]
fn vms_of_a_group_go_to_the_zone_and_the_host_with_fewest_of_them() {
    let zoned = |name: &str, zone: &str, cores| Candidate {
        zone: Some(zone.into()),
        ..host(name, cores, 65536)
    };
    // By their size alone, the hosts of zone a would get everything.
    let hosts = [
        zoned("a-1", "a", 64),
        zoned("a-2", "a", 64),
        zoned("b-1", "b", 8),
        zoned("b-2", "b", 2),
    ];
    let mut group: HashMap<HostId, usize> = HashMap::new();
    let mut went = Vec::new();
    for _ in 0..5 {
        let wanted = Demand {
            group: group.clone(),
            ..demand(1, 512)
        };
        let id = HostId::named(chosen(&wanted, &hosts));
        went.push(id.to_string());
        *group.entry(id).or_default() += 1;
    }
    assert_eq!(went, ["a-1", "b-1", "a-2", "b-2", "a-1"]);
}

#[test]
fn a_host_with_more_of_the_preferred_tags_is_better_and_none_is_needed() {
    let mut tagged = host("b-tagged", 2, 4096);
    tagged.tags = vec![tag("nvme"), tag("ssd")];
    let mut half = host("c-half", 64, 65536);
    half.tags = vec![tag("ssd")];
    let hosts = [host("a-large", 64, 65536), tagged, half];
    let wanted = |tags: &[&str]| Demand {
        preferred: tags.iter().map(|text| tag(text)).collect(),
        ..demand(1, 512)
    };
    assert_eq!(chosen(&wanted(&["ssd", "nvme"]), &hosts), "b-tagged");
    assert_eq!(chosen(&wanted(&["gpu"]), &hosts), "a-large");
}

#[test]
fn in_turn_each_host_gets_one() {
    let mut hosts = [host("a", 64, 65536), host("b", 2, 2048), host("c", 4, 4096)];
    let wanted = Demand {
        policy: Policy::RoundRobin,
        ..demand(1, 512)
    };
    let mut went = Vec::new();
    for turn in 1..=6 {
        let id = chosen(&wanted, &hosts).to_owned();
        let at = hosts.iter().position(|host| host.id.as_str() == id);
        hosts[at.expect("one of them")].last_placed = turn;
        went.push(id);
    }
    assert_eq!(went, ["a", "b", "c", "a", "b", "c"]);
}

mod explained {
    use super::*;
    use crate::placement::explain::{shortages, smallest_change, why};

    fn steps(demand: &Demand, among: &[Candidate]) -> Vec<String> {
        let change = smallest_change(demand, among, |_| true);
        change.expect("something helps").steps
    }

    #[test]
    fn a_choice_says_on_how_many_it_fits_and_what_decided() {
        let hosts = [host("a", 4, 4096), host("b", 4, 8192)];
        let wanted = demand(1, 1024);
        let said = why(&wanted, &place(&wanted, &hosts).expect("fits"));
        assert_eq!(
            said,
            "it fits on 2 of 2 hosts; this one's scarcest resource stays freest, 87 %"
        );
    }

    #[test]
    fn everything_that_a_host_lacks_is_said_with_amounts() {
        let mut full = host("full", 1, 1024);
        full.cordoned = true;
        let lacks: Vec<_> = shortages(&demand(8, 2048), &full)
            .into_iter()
            .map(|shortage| (shortage.what, shortage.wanted, shortage.free))
            .collect();
        assert_eq!(
            lacks,
            [
                (Lack::Cordoned, None, None),
                (Lack::Cpus, Some(8), Some(4)),
                (Lack::Memory, Some(2048), Some(1024)),
            ]
        );
    }

    #[test]
    fn the_smallest_change_is_the_one_that_costs_least() {
        let mut closed = host("closed", 8, 8192);
        closed.cordoned = true;
        let mut gone = host("gone", 64, 65536);
        gone.status = HostStatus::Unreachable;
        let small = host("small", 8, 3072);
        let wanted = demand(1, 4096);
        assert_eq!(
            steps(&wanted, &[gone.clone(), small.clone(), closed]),
            ["open closed to new VMs (hosts/uncordon)"]
        );
        assert_eq!(
            steps(&wanted, &[gone.clone(), small]),
            ["ask for at most 3072 MiB of memory"]
        );
        assert_eq!(steps(&wanted, &[gone]), ["bring gone back online"]);
        // Nothing that could be asked for fits there.
        assert_eq!(
            smallest_change(&wanted, &[host("tiny", 8, 64)], |_| true),
            None
        );
    }

    #[test]
    fn who_does_not_see_a_host_is_not_told_its_name() {
        let mut closed = host("closed", 8, 8192);
        closed.cordoned = true;
        let change = smallest_change(&demand(1, 512), &[closed], |_| false).expect("one");
        assert_eq!(change.host, None);
        assert!(!change.steps[0].contains("closed"), "{change:?}");
    }

    proptest! {
        /// Whoever asks for what the change says gets a place, if asking for less is all of it.
        #[test]
        fn asking_for_as_much_as_is_said_fits(
            sizes in prop::collection::vec((1_u32..4, 256_u64..4096), 1..6),
            cpus in 1_u64..64, memory_mb in 128_u64..16384,
        ) {
            let hosts: Vec<Candidate> = sizes
                .iter()
                .enumerate()
                .map(|(n, (cores, memory_mb))| host(&format!("host-{n}"), *cores, *memory_mb))
                .collect();
            let mut wanted = demand(cpus, memory_mb);
            if place(&wanted, &hosts).is_err() {
                for step in steps(&wanted, &hosts) {
                    let words: Vec<&str> = step.split(' ').collect();
                    let amount: u64 = words[4].parse().expect("ask for at most N");
                    match words[5] {
                        "CPUs" => wanted.resources.cpus = amount,
                        _ => wanted.resources.memory_mb = amount,
                    }
                }
            }
            prop_assert!(place(&wanted, &hosts).is_ok());
        }
    }
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
                let total = c.total.expect("known");
                c.reserved.cpus + cpus <= total.cpus
                    && c.reserved.memory_mb + memory_mb <= total.memory_mb
                    && c.reserved.disk_mb + 1024 <= total.disk_mb
            };
            let fitting = hosts.iter().any(fits);
            let placed = place(&wanted, &hosts).ok().map(|chosen| chosen.host.id.clone());
            prop_assert_eq!(placed.is_some(), fitting);
            if let Some(id) = placed {
                let chosen = hosts.iter_mut().find(|c| c.id == id).expect("one of them");
                prop_assert!(fits(chosen));
                chosen.reserved.cpus += cpus;
                chosen.reserved.memory_mb += memory_mb;
                chosen.reserved.disk_mb += 1024;
            }
        }
    }
}
