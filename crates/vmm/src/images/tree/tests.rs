use proptest::prelude::*;

use super::*;
use crate::images::tar::Kind;

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        size: if kind == Kind::File { 3 } else { 0 },
        kind,
        mode: 0o640,
        uid: 1,
        gid: 2,
        mtime: 3,
        xattrs: Vec::new(),
    }
}

fn file(path: &str) -> Entry {
    entry(path, Kind::File)
}

fn directory(path: &str) -> Entry {
    entry(path, Kind::Directory)
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, Kind::Symlink(target.into()))
}

fn hard_link(path: &str, target: &str) -> Entry {
    entry(path, Kind::HardLink(target.into()))
}

fn merged(layers: Vec<Vec<Entry>>) -> Result<Tree, Refused> {
    let mut tree = Tree::new();
    for (index, layer) in (0..).zip(layers) {
        tree.apply(index, layer)?;
    }
    Ok(tree)
}

/// Every path of a tree, sorted, directories with a slash.
fn paths(tree: &Tree) -> Vec<String> {
    fn visit(tree: &Tree, id: NodeId, place: &str, paths: &mut Vec<String>) {
        let Some(children) = tree.children(id) else {
            return;
        };
        for (name, child) in children {
            let path = format!("{place}{}", String::from_utf8_lossy(name));
            let is_directory = tree.children(*child).is_some();
            paths.push(format!("{path}{}", if is_directory { "/" } else { "" }));
            visit(tree, *child, &format!("{path}/"), paths);
        }
    }
    let mut paths = Vec::new();
    visit(tree, NodeId::ROOT, "", &mut paths);
    paths
}

#[test]
fn a_whiteout_hides_what_is_below_its_layer_and_nothing_in_it() {
    let lower = vec![
        file("etc/a"),
        file("etc/b"),
        file("opt/old/x"),
        file("var/y"),
    ];
    let upper = vec![
        // After what it must not hide, and before what it must not hide either.
        file("opt/new"),
        file("opt/.wh..wh..opq"),
        file("opt/newer"),
        file("etc/.wh.a"),
        file("var/y"),
        file("var/.wh.y"),
        file("nowhere/.wh.z"),
        file(".wh..wh.plnk"),
    ];
    let tree = merged(vec![lower, upper]).unwrap();
    assert_eq!(
        paths(&tree),
        [
            "etc/",
            "etc/b",
            "opt/",
            "opt/new",
            "opt/newer",
            "var/",
            "var/y"
        ]
    );
    assert_eq!(tree.file_bytes(), 4 * 3);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_but_a_directory_keeps_its_content() {
    let lower = vec![directory("d"), file("d/x"), file("f"), symlink("l", "d")];
    let mut private = directory("d");
    private.mode = 0o700;
    let upper = vec![private, directory("f"), file("f/y"), directory("l")];
    let tree = merged(vec![lower, upper]).unwrap();
    assert_eq!(paths(&tree), ["d/", "d/x", "f/", "f/y", "l/"]);
    assert_eq!(tree.find(b"d").unwrap().metadata.mode, 0o700);
}

#[test]
fn a_path_through_a_link_goes_where_the_guest_would_go() {
    let tree = merged(vec![
        vec![
            symlink("lib", "/usr/lib"),
            symlink("out", "../../../../tmp"),
        ],
        vec![file("lib/x"), file("out/y")],
    ])
    .unwrap();
    assert_eq!(
        paths(&tree),
        [
            "lib",
            "out",
            "tmp/",
            "tmp/y",
            "usr/",
            "usr/lib/",
            "usr/lib/x"
        ]
    );
    assert!(tree.find(b"lib/x").is_some());
}

#[test]
fn a_hard_link_keeps_its_file_when_the_first_name_goes() {
    let tree = merged(vec![
        vec![file("a"), hard_link("b", "/a"), hard_link("c", "b")],
        vec![file(".wh.a")],
    ])
    .unwrap();
    assert_eq!(paths(&tree), ["b", "c"]);
    assert_eq!(tree.find(b"b").unwrap().names, 2);
    assert_eq!(tree.file_bytes(), 3);
}

#[test]
fn what_leads_out_or_nowhere_is_refused() {
    let refused = |entries| merged(vec![entries]).unwrap_err();
    for path in ["..", "../x", "a/../../x", "/../x"] {
        assert!(
            matches!(refused(vec![file(path)]), Refused::Escapes { .. }),
            "{path}"
        );
    }
    let outside = refused(vec![hard_link("a", "../../etc/shadow")]);
    assert!(matches!(outside, Refused::Escapes { .. }), "{outside}");
    for target in ["/etc/shadow", "", ".", "d"] {
        let error = refused(vec![directory("d"), hard_link("a", target)]);
        assert!(
            matches!(error, Refused::LinkToNothing { .. }),
            "{target}: {error}"
        );
    }
    let error = refused(vec![symlink("a", "b"), symlink("b", "a"), file("a/x")]);
    assert!(matches!(error, Refused::NoDirectory { .. }), "{error}");
    let error = refused(vec![file("f"), file("f/x")]);
    assert!(matches!(error, Refused::NoDirectory { .. }), "{error}");
    let deep = file(&"d/".repeat(300));
    assert!(matches!(refused(vec![deep]), Refused::TooLong { .. }));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let word = prop::sample::select(vec!["a", "b", "c", "..", ".", "", ".wh.a", ".wh..wh..opq"]);
    let path = prop::collection::vec(word, 1..5).prop_map(|words| words.join("/"));
    (path.clone(), path, 0..6).prop_map(|(path, target, kind)| match kind {
        0 | 1 => file(&path),
        2 => directory(&path),
        3 => symlink(&path, &target),
        4 => hard_link(&path, &target),
        _ => entry(&path, Kind::CharacterDevice(5, 1)),
    })
}

proptest! {
    #[test]
    fn whatever_the_layers_hold_the_tree_stays_one(
        layers in prop::collection::vec(prop::collection::vec(any_entry(), 0..8), 0..4),
    ) {
        // Entries that are refused end an import; here the rest goes on, which is harder.
        let mut tree = Tree::new();
        for (index, layer) in (0..).zip(layers) {
            for entry in layer {
                let _ = tree.apply(index, vec![entry]);
            }
        }
        tree.assert_sound();
    }
}
