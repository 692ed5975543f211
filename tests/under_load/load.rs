//! A fleet at work: teams and hosts are made, machines register and say that they are there, by many
//! clients at once and on several servers. What was acknowledged is written down.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::support::{Answer, Plane, curl, wait_for};

/// How many work at each server.
const HANDS: usize = 3;

/// What somebody was told was done.
#[derive(Default)]
pub(crate) struct Acknowledged {
    teams: BTreeSet<String>,
    hosts: BTreeSet<String>,
    registered: BTreeSet<String>,
}

/// A server, as its clients know it.
struct Server {
    url: String,
    ca: PathBuf,
    key: String,
    /// How many began something here.
    begun: AtomicUsize,
    /// The latest of those beginnings whose end was a success.
    latest: AtomicUsize,
}

impl Server {
    /// Asks for something; the answer if it was done.
    fn ask(&self, path: &str, header: &str, body: &Value) -> Option<Value> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let config = format!("header = \"{header}\"\n");
        let (ca, url) = (self.ca.to_str()?, format!("{}{path}", self.url));
        let body = body.to_string();
        let arguments = [
            "--cacert",
            ca,
            "--config",
            "-",
            "--max-time",
            "5",
            "--json",
            &body,
            &url,
        ];
        let answer: Answer = curl(&arguments, &config);
        if !(200..300).contains(&answer.status) {
            return None;
        }
        self.latest.fetch_max(number, Ordering::SeqCst);
        Some(serde_json::from_str(&answer.body).unwrap_or(Value::Null))
    }
}

/// What was begun at a server until some moment.
pub(crate) struct Mark {
    server: usize,
    begun: usize,
}

pub(crate) struct Load {
    servers: Arc<Vec<Server>>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
    hands: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn on(planes: impl IntoIterator<Item = impl Borrow<Plane>>) -> Self {
        let server = |plane: &Plane| Server {
            url: plane.url(),
            ca: plane.ca(),
            key: plane.key().to_owned(),
            begun: AtomicUsize::new(0),
            latest: AtomicUsize::new(0),
        };
        let planes = planes.into_iter();
        let servers: Arc<Vec<Server>> =
            Arc::new(planes.map(|plane| server(plane.borrow())).collect());
        let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let hand = |number: usize| {
            let (servers, acknowledged) = (Arc::clone(&servers), Arc::clone(&acknowledged));
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let server = &servers[number % servers.len()];
                let mut round = 0;
                while !stop.load(Ordering::SeqCst) {
                    round += 1;
                    work(server, &format!("team-{number}-{round}"), &acknowledged);
                }
            })
        };
        let hands = (0..HANDS * servers.len()).map(hand).collect();
        Self {
            servers,
            acknowledged,
            stop,
            hands,
        }
    }

    /// Waits until so much more is acknowledged at each server.
    pub(crate) fn works(&self, much: usize) {
        let begun: Vec<usize> = self.latests();
        wait_for("the fleet is at work", || {
            let now = self.latests();
            now.iter()
                .zip(&begun)
                .all(|(now, begun)| *now >= begun + much)
                .then_some(())
        });
    }

    fn latests(&self) -> Vec<usize> {
        let latest = |server: &Server| server.latest.load(Ordering::SeqCst);
        self.servers.iter().map(latest).collect()
    }

    pub(crate) fn mark(&self, server: usize) -> Mark {
        let begun = self.servers[server].begun.load(Ordering::SeqCst);
        Mark { server, begun }
    }

    /// Whether something was done that was begun after the mark.
    pub(crate) fn is_past(&self, mark: &Mark) -> bool {
        self.servers[mark.server].latest.load(Ordering::SeqCst) > mark.begun
    }

    /// Stops, and tells what was acknowledged.
    pub(crate) fn end(mut self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        for hand in self.hands.drain(..) {
            hand.join().expect("they work");
        }
        std::mem::take(&mut *self.acknowledged.lock().expect("they work"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// Makes a team and a host, which registers and says that it is there.
fn work(server: &Server, team: &str, acknowledged: &Mutex<Acknowledged>) {
    let admin = format!("Authorization: Bearer {}", server.key);
    let told = |what: fn(&mut Acknowledged) -> &mut BTreeSet<String>, id: String| {
        what(&mut acknowledged.lock().expect("they work")).insert(id);
    };
    if server
        .ask("/v1/teams", &admin, &json!({ "name": team }))
        .is_some()
    {
        told(|all| &mut all.teams, team.to_owned());
    }
    let Some(made) = server.ask("/v1/hosts", &admin, &json!({})) else {
        return;
    };
    let id = text(&made["host"]["id"]);
    told(|all| &mut all.hosts, id.clone());
    let machine = json!({ "token": made["registration_token"], "address": "127.0.0.1:9" });
    let Some(registered) = server.ask("/v1/hosts/register", "X-Test: 1", &machine) else {
        return;
    };
    told(|all| &mut all.registered, id.clone());
    let token = format!("X-Host-Token: {}", text(&registered["token"]));
    server.ask(&format!("/v1/hosts/{id}/heartbeat"), &token, &json!({}));
}

/// Everything that was acknowledged is in the books, on each server, with one line in the trail.
pub(crate) fn check(planes: &[Plane; 2], acknowledged: Acknowledged) {
    let done = &acknowledged;
    assert!(
        done.teams.len() > 10 && done.registered.len() > 10,
        "hardly anything was done"
    );
    for plane in planes {
        let ids = |things: &Value, of: &str, is: fn(&Value) -> bool| -> BTreeSet<String> {
            let things = things.as_array().expect("a list").iter();
            things
                .filter(|thing| is(thing))
                .map(|thing| text(&thing[of]))
                .collect()
        };
        let teams = ids(&plane.ask(&["team", "list"]), "name", |_| true);
        let hosts = plane.ask(&["host", "list"]);
        let lost = |all: &BTreeSet<String>, there: &BTreeSet<String>| -> Vec<String> {
            all.difference(there).cloned().collect()
        };
        let nothing: Vec<String> = Vec::new();
        assert_eq!(lost(&done.teams, &teams), nothing, "teams");
        assert_eq!(
            lost(&done.hosts, &ids(&hosts, "id", |_| true)),
            nothing,
            "hosts"
        );
        // By now some may have been silent for long.
        let enrolled = ids(&hosts, "id", |host| host["status"] != "pending");
        assert_eq!(lost(&done.registered, &enrolled), nothing, "registrations");
        plane.ask(&["audit", "verify"]);
    }
    let lines = planes[0].ask(&["audit", "list", "--action", "host.register"]);
    let lines = lines.as_array().expect("a list");
    let objects: BTreeSet<String> = lines.iter().map(|line| text(&line["object"])).collect();
    assert_eq!(objects.len(), lines.len(), "a host registered twice");
    assert!(
        done.registered.is_subset(&objects),
        "a registration without its line"
    );
}
