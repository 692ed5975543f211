//! Several servers on the same books: one key, one authority, one monitor, and none that does not
//! know what another has done.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use hostler_authority::{Authority, Lifetimes};
use hostler_fleet::{ApiKey, Config, Database, Fleet, SharedKeys, mount};
use hostler_identity::{SpiffeId, TrustDomain};
use hostler_operations::{Registry, Request};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cluster::cluster;
use crate::desk::{TRUST_DOMAIN, identify, machine, races, text};

const URL: &str = "HOSTLER_TEST_URL";

/// A server on the books at this URL, as `hostler server` puts one together.
pub(crate) struct Replica {
    pub(crate) fleet: Arc<Fleet>,
    authority: Authority,
    pub(crate) registry: Arc<Registry>,
    first_key: Option<ApiKey>,
    stop: CancellationToken,
}

impl Replica {
    async fn start(url: &str) -> Self {
        Self::start_with(url, None).await
    }

    /// With a Redis beside the books.
    pub(crate) async fn start_with(url: &str, redis: Option<&str>) -> Self {
        let database: Database = url.parse().expect("a database");
        let shared = SharedKeys::open(&database).await.expect("tables");
        let shared = Arc::new(shared.expect("keys are shared there"));
        let domain = TrustDomain::new(TRUST_DOMAIN).expect("a trust domain");
        let now = Timestamp::now();
        let authority = Authority::open_shared(shared, domain, Lifetimes::default(), now);
        let authority = authority.expect("an authority");
        let own_id = format!("spiffe://{TRUST_DOMAIN}/control-plane/1");
        let source = authority
            .source(&own_id.parse().expect("an id"))
            .expect("an identity");
        let config = Config {
            database,
            machines_url: "https://127.0.0.1:8444".into(),
            replica_url: "https://127.0.0.1:8444".into(),
            redis: redis.map(|url| url.parse().expect("a Redis")),
            federation: Vec::new(),
        };
        let opened = Fleet::open(config, authority.clone(), source).await;
        let (fleet, first_key) = opened.expect("a fleet");
        let registry = mount(Registry::builder(), &fleet).build();
        Self {
            fleet,
            authority,
            registry: registry.expect("the definitions agree"),
            first_key,
            stop: CancellationToken::new(),
        }
    }

    /// Runs what runs beside the doors.
    fn run(&self) {
        let (fleet, stop) = (Arc::clone(&self.fleet), self.stop.clone());
        tokio::spawn(async move { fleet.run_monitor(stop).await });
    }

    pub(crate) async fn call(&self, key: &str, operation: &str, input: Value) -> Value {
        let request = Request {
            input,
            identity: Some(identify(&self.fleet, key).await),
            ..Request::default()
        };
        let reply = self.registry.invoke(operation, request).await;
        reply.expect(operation).output
    }
}

/// Two running servers on new books, and the admin's key.
async fn pair() -> (Replica, Replica, String) {
    pair_with(&cluster().database().await, None).await
}

/// The same on this database, with this Redis.
pub(crate) async fn pair_with(url: &str, redis: Option<&str>) -> (Replica, Replica, String) {
    let one = Replica::start_with(url, redis).await;
    let other = Replica::start_with(url, redis).await;
    assert!(other.first_key.is_none(), "a second key was shown");
    let key = one.first_key.clone().expect("a key");
    one.fleet.admit_first_key(&key).await.expect("admitted");
    one.run();
    other.run();
    (one, other, key.reveal().to_owned())
}

/// Waits until something is so; fails when that takes longer than this.
pub(crate) async fn within(limit: Duration, what: &str, so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_that_start_at_once_on_nothing_one_shows_a_key_and_all_have_one_authority() {
    let url = cluster().database().await;
    let starting = (0..10).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { Replica::start(&url).await })
    });
    let replicas: Vec<Replica> = join_all(starting)
        .await
        .into_iter()
        .map(|started| started.expect("it started"))
        .collect();
    let shown: Vec<_> = replicas
        .iter()
        .filter_map(|r| r.first_key.as_ref())
        .collect();
    assert_eq!(shown.len(), 1, "keys shown");
    let bundle = replicas[0].authority.bundle_jwks();
    assert!(replicas.iter().all(|r| r.authority.bundle_jwks() == bundle));
    // A token that one issues, any other takes.
    replicas[0]
        .fleet
        .admit_first_key(shown[0])
        .await
        .expect("admitted");
    let key = shown[0].reveal();
    let made = replicas[3].call(key, "hosts/create", json!({})).await;
    let token = text(&made["registration_token"]);
    let request = Request {
        input: machine(&token),
        ..Request::default()
    };
    let host = replicas[7].registry.invoke("hosts/register", request).await;
    let host_token = text(&host.expect("registered").output["token"]).into();
    let known = replicas[9]
        .fleet
        .identify(None, Some(&host_token), None)
        .await;
    known.expect("the same signing key").expect("an identity");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_out_on_one_is_out_on_the_other_within_five_seconds() {
    let (one, other, admin) = pair().await;
    let user = json!({"name": "ada", "password": "correct horse battery"});
    one.call(&admin, "users/create", user.clone()).await;
    one.call(&admin, "teams/create", json!({"name": "ours"}))
        .await;
    let member = json!({"team": "ours", "user": "ada"});
    let login = async |replica: &Replica| {
        let answer = replica.call(&admin, "auth/login", user.clone()).await;
        text(&answer["token"])
    };
    let good = async |token: &str| {
        let token = token.into();
        let found = other.fleet.identify(Some(&token), None, None).await;
        found.is_ok()
    };
    let ends = async |operation: &str, input: Value| {
        let token = login(&one).await;
        assert!(good(&token).await, "what one issues the other takes");
        one.call(&admin, operation, input).await;
        let out = async || !good(&token).await;
        // Sooner than what is remembered ends by itself: the other has been told.
        within(Duration::from_secs(3), operation, out).await;
    };
    one.call(&admin, "teams/members-add", member.clone()).await;
    ends("teams/members-remove", member).await;
    let same = json!({"user": "ada", "password": "correct horse battery"});
    ends("users/set-password", same).await;
    ends("users/delete", json!({"user": "ada"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_keys_that_one_gives_up_are_given_up_by_the_other_within_five_seconds() {
    let (one, other, admin) = pair().await;
    let made = one.call(&admin, "hosts/create", json!({})).await;
    let token = text(&made["registration_token"]);
    let registered = one.call(&admin, "hosts/register", machine(&token)).await;
    let token = text(&registered["token"]).into();
    let good = async || other.fleet.identify(None, Some(&token), None).await.is_ok();
    one.call(&admin, "token-keys/rotate", json!({})).await;
    assert!(good().await, "a key that is followed verifies");
    let give_up = json!({"give_up": true});
    one.call(&admin, "token-keys/rotate", give_up).await;
    let out = async || !good().await;
    within(Duration::from_secs(5), "the old keys end", out).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_revokes_is_refused_by_the_other_within_five_seconds() {
    let (one, other, admin) = pair().await;
    let made = one.call(
        &admin,
        "api-keys/create",
        json!({"name": "k", "scopes": ["hosts:read"]}),
    );
    let made = made.await;
    let secret = text(&made["secret"]).into();
    let good = async || {
        other
            .fleet
            .identify(Some(&secret), None, None)
            .await
            .is_ok()
    };
    assert!(good().await, "it is good everywhere");
    one.call(
        &admin,
        "api-keys/delete",
        json!({"id": made["api_key"]["id"]}),
    )
    .await;
    within(Duration::from_secs(5), "a revoked key", async || {
        !good().await
    })
    .await;

    let made = one.call(&admin, "hosts/create", json!({})).await;
    let token = text(&made["registration_token"]);
    let request = Request {
        input: machine(&token),
        ..Request::default()
    };
    let host = one
        .registry
        .invoke("hosts/register", request)
        .await
        .expect("registered");
    let id = text(&host.output["host"]["id"]);
    let peer: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/host/{id}")
        .parse()
        .expect("an id");
    let admitted = async || other.fleet.admits(&peer);
    within(Duration::from_secs(5), "a new host", admitted).await;
    let mut dismissals = other.fleet.watch_dismissals();
    dismissals.mark_unchanged();
    one.call(&admin, "hosts/delete", json!({"id": id})).await;
    tokio::time::timeout(Duration::from_secs(5), dismissals.changed())
        .await
        .expect("within five seconds")
        .expect("it lives");
    assert!(!other.fleet.admits(&peer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_changes_about_a_host_the_other_places_by_at_once() {
    let (one, other, admin) = pair().await;
    let made = one.call(&admin, "hosts/create", json!({})).await;
    let token = text(&made["registration_token"]);
    let request = Request {
        input: machine(&token),
        ..Request::default()
    };
    let host = one.registry.invoke("hosts/register", request).await;
    let id = host.expect("registered").output["host"]["id"].clone();
    let about = json!({ "id": id });
    let chosen = async |replica: &Replica| {
        let said = replica.call(&admin, "vms/place", json!({})).await;
        said.get("host").cloned()
    };
    assert_eq!(chosen(&other).await, Some(id.clone()));
    one.call(&admin, "hosts/cordon", about.clone()).await;
    assert_eq!(chosen(&other).await, None);
    other.call(&admin, "hosts/uncordon", about.clone()).await;
    assert_eq!(chosen(&one).await, Some(id));
    other.call(&admin, "hosts/delete", about).await;
    assert_eq!(chosen(&one).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_every_event_in_order_whichever_server_it_hangs_on() {
    let (one, other, admin) = pair().await;
    let request = Request {
        input: json!({}),
        identity: Some(identify(&other.fleet, &admin).await),
        ..Request::default()
    };
    let mut events = other
        .registry
        .subscribe("hosts/watch", request)
        .await
        .expect("a stream")
        .boxed();
    let mut created = Vec::new();
    for n in 0..20 {
        let server = if n % 2 == 0 { &one } else { &other };
        let made = server.call(&admin, "hosts/create", json!({})).await;
        created.push(text(&made["host"]["id"]));
    }
    let mut seen = Vec::new();
    let mut numbers = Vec::new();
    while seen.len() < created.len() {
        let next = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        let event = next.expect("in time").expect("more").expect("an event");
        seen.push(text(&event["host"]["id"]));
        numbers.push(event["seq"].as_u64().expect("a number"));
    }
    assert_eq!(seen, created);
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_rotate_at_once_rotate_once_and_all_follow() {
    let (one, other, _) = pair().await;
    let rotate = |authority: Authority| {
        tokio::task::spawn_blocking(move || {
            authority.rotate(SignedDuration::from_secs(60), Timestamp::now())
        })
    };
    let (first, second) = tokio::join!(
        rotate(one.authority.clone()),
        rotate(other.authority.clone())
    );
    let first = first.expect("no panic").expect("rotated");
    let second = second.expect("no panic").expect("rotated");
    assert_eq!(first, second, "one rotation");
    let same = async || one.authority.bundle_jwks() == other.authority.bundle_jwks();
    within(Duration::from_secs(5), "one bundle", same).await;
    let roots = one.authority.bundle_pem().matches("BEGIN CERT").count();
    assert_eq!(roots, 2, "the root and its one successor");
}

#[tokio::test]
#[ignore = "it is run by the other tests of this module, in a process that is to be killed"]
async fn a_server_that_keeps_watch() {
    let url = std::env::var(URL).expect("the test that runs this says where");
    let replica = Replica::start(&url).await;
    replica.fleet.run_monitor(CancellationToken::new()).await;
}

async fn holder(url: &str) -> Option<String> {
    let mut db = <sqlx::PgConnection as sqlx::Connection>::connect(url)
        .await
        .expect("the books");
    sqlx::query_scalar("SELECT holder FROM leases WHERE name = 'monitor'")
        .fetch_optional(&mut db)
        .await
        .expect("readable")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_one_that_keeps_watch_is_killed_another_does_within_ten_seconds() {
    let url = cluster().database().await;
    let standby = Replica::start(&url).await;
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "replicas::a_server_that_keeps_watch",
            "--exact",
            "--ignored",
        ])
        .env(URL, &url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let held = async || holder(&url).await.is_some();
    within(Duration::from_secs(60), "a first watch", held).await;
    let first = holder(&url).await;
    standby.run();
    // It does not take over from one that lives.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(holder(&url).await, first, "one at a time");
    child.kill().expect("killed");
    child.wait().expect("gone");
    let taken = async || holder(&url).await != first;
    within(Duration::from_secs(10), "a takeover", taken).await;
    // Who goes in peace leaves the watch at once.
    standby.stop.cancel();
    standby.fleet.close().await;
    assert_eq!(holder(&url).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_registrations_over_two_servers_one_wins() {
    let (one, other, admin) = pair().await;
    race(&one, &other, &admin).await;
}

pub(crate) async fn race(one: &Replica, other: &Replica, admin: &str) {
    for _ in 0..races() {
        let made = one.call(admin, "hosts/create", json!({})).await;
        let token = text(&made["registration_token"]);
        let racing = (0..50).map(|n| {
            let registry = if n % 2 == 0 {
                &one.registry
            } else {
                &other.registry
            };
            let (registry, input) = (Arc::clone(registry), machine(&token));
            tokio::spawn(async move {
                let request = Request {
                    input,
                    ..Request::default()
                };
                registry.invoke("hosts/register", request).await
            })
        });
        let answers = join_all(racing).await;
        let won = answers
            .into_iter()
            .filter(|a| a.as_ref().is_ok_and(Result::is_ok));
        assert_eq!(won.count(), 1);
    }
}
