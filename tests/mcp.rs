//! An agent at work: the reference implementation's client in Python speaks to the people's door
//! and has a VM made, runs something in it, and has it deleted (`mcp/agent.py`).

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Plane, python};

/// What the agent said, line by line.
fn session(plane: &Plane, key: &str, mode: &str, vm: &str) -> Vec<Value> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/mcp");
    let output = Command::new(python(&tests.join("requirements.txt")))
        .arg(tests.join("agent.py"))
        .arg(format!("{}/mcp", plane.url()))
        .arg(plane.ca())
        .args([mode, vm])
        .env("HOSTLER_TOKEN", key)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let broke = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{broke}\n{}", plane.log());
    let lines = said.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("lines of JSON")
}

#[test]
fn an_agent_makes_a_vm_looks_at_it_and_deletes_it() {
    let plane = Plane::start();
    let _agent = plane.enrol("host");
    plane.ask(&["image", "pull"]);
    for (mode, revision) in [("auto", "2026-07-28"), ("legacy", "2025-11-25")] {
        let vm = format!("agent-{mode}");
        let said = session(&plane, plane.key(), mode, &vm);
        let [
            hello,
            create,
            start,
            run,
            get,
            list,
            refused,
            delete,
            gone,
            wrong,
        ] = &said[..]
        else {
            panic!("{said:#?}");
        };
        assert_eq!(hello["revision"], revision);
        assert_eq!(hello["server"], "Hostler control plane");
        assert_eq!(hello["instructions"], true);
        let has = |list: &str, name: &str| {
            hello[list]
                .as_array()
                .expect("names")
                .contains(&json!(name))
        };
        assert!(has("read_only", "vms_get") && !has("read_only", "vms_start"));
        assert!(has("destructive", "vms_delete") && has("destructive", "hosts_delete"));

        for worked in [create, start, run, get, list, delete] {
            assert_eq!(worked["failed"], false, "{worked}");
        }
        assert_eq!(start["answer"]["state"], "running");
        assert_eq!(run["answer"]["exit_code"], 0, "{run}");
        let arch = std::env::consts::ARCH;
        let uname = format!("Linux {arch}");
        assert_eq!(
            run["answer"]["stdout"].as_str().map(str::trim),
            Some(&*uname)
        );
        assert_eq!(get["answer"]["name"], json!(vm));
        assert_eq!(list["answer"]["items"][0]["name"], json!(vm));
        for (failed, code) in [
            (refused, "CONFLICT"),
            (gone, "NOT_FOUND"),
            (wrong, "INVALID_INPUT"),
        ] {
            assert_eq!(failed["failed"], true, "{failed}");
            assert_eq!(failed["answer"]["code"], code, "{failed}");
        }
        assert!(wrong["answer"]["message"].to_string().contains("memory"));
    }
    assert_eq!(plane.ask(&["vm", "list"]), json!([]));
    assert!(!plane.log().contains(plane.key()), "the key is in the log");
    assert!(plane.log().contains("vms/create"), "who called what is not");
}

#[test]
fn an_agent_with_a_narrow_key_has_few_tools_and_a_stranger_none() {
    let plane = Plane::start();
    let create = ["api-key", "create", "narrow", "--scope", "images:read"];
    let narrow = plane.ask(&create)["secret"].clone();
    let list = |key: Option<&str>| {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
        let arguments = ["--request", "POST", "--json", &message];
        plane.curl(key, &arguments, "/mcp")
    };
    let names = |key: &str| {
        let listed = list(Some(key)).json();
        let tools = listed["result"]["tools"].as_array().expect("tools").clone();
        let names = tools.iter().map(|tool| tool["name"].to_string());
        names.collect::<Vec<_>>()
    };
    let all = names(plane.key());
    let few = names(narrow.as_str().expect("a key"));
    assert!(few.contains(&"\"images_list\"".to_owned()), "{few:?}");
    assert!(!few.iter().any(|name| name.contains("vms_")), "{few:?}");
    assert!(few.len() < all.len() && all.contains(&"\"vms_create\"".to_owned()));
    let stranger = list(None);
    assert_eq!(stranger.status, 401);
    let said = format!("{}{}", stranger.headers, stranger.body).to_lowercase();
    assert!(said.contains("www-authenticate: bearer"), "{said}");
    assert!(!said.contains("hostler") && !said.contains("mcp"), "{said}");
}
