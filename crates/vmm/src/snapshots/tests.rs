//! What the store of snapshots promises, without a VM.

use super::*;
use crate::layout::Layout;
use crate::record::tests::record;
use crate::spec::Spec;

struct Place {
    _data: tempfile::TempDir,
    spec: Spec,
    snapshots: Snapshots,
}

fn place() -> Place {
    let data = tempfile::tempdir().unwrap();
    let spec = record().spec;
    let dir = Layout::new(data.path().to_owned()).vm(&spec.name);
    fs::create_dir_all(dir.path()).unwrap();
    Place {
        snapshots: Snapshots::of(&spec.name, &dir),
        spec,
        _data: data,
    }
}

fn memory() -> Memory {
    Memory {
        arch: "x86_64".to_owned(),
        kernel_sha256: "k".to_owned(),
        form: [("QEMU".to_owned(), "7.2".to_owned())].into(),
    }
}

fn parts(spec: &Spec, name: &str) -> Parts {
    Parts {
        name: name.parse().unwrap(),
        created_at: Timestamp::now(),
        vm_id: spec.id,
        driver: spec.driver,
        cpus: spec.cpus,
        memory_mb: spec.memory_mb,
        disk_size_mb: spec.disk_size_mb,
        kernel: spec.kernel.clone(),
        memory: Some(memory()),
    }
}

fn take(place: &Place, name: &str) -> Snapshot {
    let draft = place.snapshots.draft().unwrap();
    fs::write(disk_in(draft.path()), "a disk").unwrap();
    fs::write(draft.path().join("memory"), "a memory").unwrap();
    place
        .snapshots
        .put(draft, parts(&place.spec, name))
        .unwrap()
}

#[test]
fn a_snapshot_is_there_from_when_it_is_whole_until_it_is_removed() {
    let place = place();
    assert_eq!(place.snapshots.list().unwrap(), []);
    let draft = place.snapshots.draft().unwrap();
    assert_eq!(place.snapshots.list().unwrap(), []);
    drop(draft);
    let (one, two) = (take(&place, "b"), take(&place, "a"));
    assert_eq!(place.snapshots.list().unwrap(), [two.clone(), one]);
    assert!(place.snapshots.size_mb().unwrap() > 0);
    place.snapshots.remove("b").unwrap();
    assert_eq!(place.snapshots.list().unwrap(), [two]);
    let error = place.snapshots.remove("b").unwrap_err().to_string();
    assert!(
        error.ends_with("has no snapshot \"b\"; there are: a"),
        "{error}"
    );
}

#[test]
fn a_name_that_leads_elsewhere_is_no_snapshots_name() {
    let place = place();
    take(&place, "a");
    for name in ["..", "../x", "", ".", "a/", "a/../a", "/etc", "A"] {
        let error = place.snapshots.find(name).unwrap_err();
        assert!(matches!(error, FindError::Missing(_)), "{name:?}: {error}");
        let error = place.snapshots.remove(name).unwrap_err();
        let refused = matches!(error, DeleteSnapshotError::NoSuchSnapshot(_));
        assert!(refused, "{name:?}: {error}");
    }
    assert_eq!(place.snapshots.list().unwrap().len(), 1);
}

#[test]
fn every_damage_is_noticed_and_named() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("memory has changed", |at| {
            fs::write(at.join("memory"), "A memory").unwrap()
        }),
        ("bytes instead of", |at| {
            fs::write(at.join("memory"), "a mem").unwrap()
        }),
        ("disk.ext4 is missing", |at| {
            fs::remove_file(disk_in(at)).unwrap()
        }),
        ("memory is no file", |at| {
            fs::remove_file(at.join("memory")).unwrap();
            std::os::unix::fs::symlink("disk.ext4", at.join("memory")).unwrap();
        }),
        ("snapshot.json is missing", |at| {
            fs::remove_file(at.join(MANIFEST)).unwrap()
        }),
        ("EOF while parsing", |at| {
            fs::write(at.join(MANIFEST), "{").unwrap()
        }),
    ];
    for (expected, damage) in damages {
        let place = place();
        take(&place, "a");
        damage(&place.snapshots.root.join("a"));
        let found = place.snapshots.find("a");
        let error = found
            .and_then(|found| place.snapshots.verify(&found))
            .unwrap_err();
        assert!(matches!(error, FindError::Damaged(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        // It can be got rid of.
        place.snapshots.remove("a").unwrap();
    }
}

#[test]
fn what_a_newer_version_wrote_is_not_taken_for_damaged() {
    for (ours, theirs, unknown) in [
        ("blake3:", "blake4:", "digest \"blake4\""),
        ("\"version\":1", "\"more\":true,\"version\":2", "form 2"),
    ] {
        let place = place();
        take(&place, "a");
        let path = place.snapshots.root.join("a").join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap().replace("\": ", "\":");
        assert!(text.contains(ours), "{text}");
        fs::write(&path, text.replacen(ours, theirs, 1)).unwrap();
        let found = place.snapshots.find("a");
        let error = found
            .and_then(|found| place.snapshots.verify(&found))
            .unwrap_err();
        assert!(matches!(error, FindError::Newer(_)), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("newer version") && said.contains(unknown),
            "{said}"
        );
        assert!(!said.contains("delete"), "{said}");
    }
}

#[test]
fn a_manifest_that_names_a_file_elsewhere_is_not_used() {
    let place = place();
    take(&place, "a");
    let path = place.snapshots.root.join("a").join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"memory\",", "\"../memory\",")).unwrap();
    let error = place.snapshots.find("a").unwrap_err().to_string();
    assert!(error.contains("names a file"), "{error}");
}

#[test]
fn whatever_has_to_be_the_same_is_compared() {
    let place = place();
    take(&place, "a");
    let manifest = place.snapshots.find("a").unwrap().manifest;
    let spec = &place.spec;
    manifest.fits(spec).unwrap();
    manifest.fits_here(&memory()).unwrap();
    let other_vm = Spec {
        id: crate::model::VmId::generate(),
        ..spec.clone()
    };
    let fewer = Spec {
        cpus: spec.cpus + 1,
        ..spec.clone()
    };
    let smaller = Spec {
        memory_mb: 1,
        ..spec.clone()
    };
    let larger = Spec {
        disk_size_mb: 1,
        ..spec.clone()
    };
    let driven = Spec {
        driver: DriverKind::Firecracker,
        ..spec.clone()
    };
    for (other, what) in [
        (other_vm, "VM"),
        (fewer, "number of CPUs"),
        (smaller, "memory (MiB)"),
        (larger, "disk size (MiB)"),
        (driven, "driver"),
    ] {
        assert_eq!(manifest.fits(&other).unwrap_err().what, what);
    }
    let changed = |change: fn(&mut Memory)| {
        let mut here = memory();
        change(&mut here);
        manifest.fits_here(&here).unwrap_err().what
    };
    assert_eq!(changed(|here| here.arch = "aarch64".into()), "architecture");
    assert_eq!(changed(|here| here.kernel_sha256 = "l".into()), "kernel");
    assert_eq!(changed(|here| here.form.clear()), "QEMU");
    assert_eq!(
        changed(|here| drop(here.form.insert("CPU".into(), "x".into()))),
        "CPU"
    );
}

#[test]
fn a_disk_alone_does_not_care_what_runs_it() {
    let place = place();
    let draft = place.snapshots.draft().unwrap();
    fs::write(disk_in(draft.path()), "a disk").unwrap();
    let parts = Parts {
        memory: None,
        ..parts(&place.spec, "a")
    };
    let snapshot = place.snapshots.put(draft, parts).unwrap();
    assert!(!snapshot.memory);
    let manifest = place.snapshots.find("a").unwrap().manifest;
    let elsewhere = Spec {
        cpus: 7,
        driver: DriverKind::Firecracker,
        ..place.spec.clone()
    };
    manifest.fits(&elsewhere).unwrap();
}

#[test]
fn a_sweep_takes_half_a_snapshot_and_leaves_the_whole_ones() {
    let place = place();
    place.snapshots.sweep().unwrap();
    take(&place, "a");
    std::mem::forget(place.snapshots.draft().unwrap());
    place.snapshots.sweep().unwrap();
    assert_eq!(fs::read_dir(&place.snapshots.root).unwrap().count(), 1);
}
