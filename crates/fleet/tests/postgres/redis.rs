//! Two servers with a Redis beside the books: faster with it, and as right without it.

use std::time::{Duration, Instant};

use hostler_identity::SpiffeId;
use hostler_operations::Request;
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::cluster::cluster;
use crate::desk::{TRUST_DOMAIN, machine, text};
use crate::redis_server::Redis;
use crate::replicas::{Replica, pair_with, race, within};

/// The servers, the admin's key, the database, and Redis.
struct Beside {
    one: Replica,
    other: Replica,
    admin: String,
    database: String,
    redis: Redis,
}

/// A host, and the token by which it says that it is there.
struct Announced {
    id: String,
    token: String,
}

impl Beside {
    async fn start() -> Self {
        let (database, redis) = (cluster().database().await, Redis::start());
        let (one, other, admin) = pair_with(&database, Some(&redis.url())).await;
        let beside = Self {
            one,
            other,
            admin,
            database,
            redis,
        };
        beside.is_used().await;
        beside
    }

    /// Waits until both servers are connected.
    async fn is_used(&self) {
        let host = self.enrol().await;
        for server in [&self.one, &self.other] {
            within(Duration::from_secs(10), "Redis is used", async || {
                let booked = self.booked(&host).await;
                beat(server, &host).await;
                self.booked(&host).await == booked
            })
            .await;
        }
    }

    async fn enrol(&self) -> Announced {
        let made = self.one.call(&self.admin, "hosts/create", json!({})).await;
        let token = text(&made["registration_token"]);
        let registered = self
            .one
            .call(&self.admin, "hosts/register", machine(&token))
            .await;
        Announced {
            id: text(&made["host"]["id"]),
            token: text(&registered["token"]),
        }
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database)
            .await
            .expect("a connection")
    }

    async fn execute(&self, statement: &str) {
        cluster()
            .execute(&mut self.connect().await, statement)
            .await;
    }

    /// When the books have heard of it, in milliseconds.
    async fn booked(&self, host: &Announced) -> i64 {
        sqlx::query_scalar("SELECT last_heartbeat_at FROM hosts WHERE id = $1")
            .bind(&host.id)
            .fetch_one(&mut self.connect().await)
            .await
            .expect("a time")
    }

    /// As if the books had last heard of it so many seconds earlier.
    async fn unheard(&self, host: &Announced, seconds: u32) {
        let earlier = format!(
            "UPDATE hosts SET last_heartbeat_at = last_heartbeat_at - {seconds}000 WHERE id = '{}'",
            host.id
        );
        self.execute(&earlier).await;
    }

    async fn shown(&self, host: &Announced) -> Value {
        self.other
            .call(&self.admin, "hosts/get", json!({"id": host.id}))
            .await
    }

    /// Puts a text in the place of every key in Redis whose name ends so.
    async fn spoil(&self, name: &str) {
        let client = ::redis::Client::open(self.redis.url()).expect("its URL");
        let redis = client.get_multiplexed_async_connection().await;
        let mut redis = redis.expect("a connection");
        let mut keys = ::redis::cmd("KEYS");
        let keys = keys.arg(format!("*:{name}")).query_async(&mut redis).await;
        let keys: Vec<String> = keys.expect("names");
        assert!(!keys.is_empty(), "there is no {name}");
        for key in keys {
            let mut set = ::redis::cmd("SET");
            let set = set.arg(key).arg("else").query_async(&mut redis).await;
            let _done: () = set.expect("set");
        }
    }

    async fn status(&self, host: &Announced) -> String {
        text(&self.shown(host).await["status"])
    }
}

async fn beat(server: &Replica, host: &Announced) {
    let token = host.token.as_str().into();
    let identity = server.fleet.identify(None, Some(&token), None).await;
    let request = Request {
        input: json!({"id": host.id, "vms": []}),
        identity: identity.expect("it is known"),
        ..Request::default()
    };
    let done = server.registry.invoke("hosts/heartbeat", request).await;
    done.expect("it was heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_registrations_over_two_servers_with_redis_one_wins() {
    let beside = Beside::start().await;
    race(&beside.one, &beside.other, &beside.admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_stays_good_when_its_registration_comes_to_nothing_and_when_redis_forgets_it() {
    let mut beside = Beside::start().await;
    let (one, admin) = (&beside.one, &beside.admin);
    let made = one.call(admin, "hosts/create", json!({})).await;
    let token = text(&made["registration_token"]);
    let mut bad = machine(&token);
    bad["csr"] = "no request".into();
    let ask = async |input: Value| {
        let request = Request {
            input,
            ..Request::default()
        };
        let answer = beside
            .other
            .registry
            .invoke("hosts/register", request)
            .await;
        answer
            .map(|_| ())
            .map_err(|error| error.code().as_str().to_owned())
    };
    assert_eq!(ask(bad).await, Err("INVALID_INPUT".to_owned()));
    assert_eq!(ask(machine(&token)).await, Ok(()));
    assert_eq!(ask(machine(&token)).await, Err("UNAUTHORIZED".to_owned()));
    beside.redis.crash();
    assert_eq!(ask(machine(&token)).await, Err("UNAUTHORIZED".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_changes_the_other_hears_sooner_than_it_would_look() {
    let mut beside = Beside::start().await;
    let limit = Duration::from_secs(120);
    let with = tokio::time::timeout(limit, time_to_hear(&beside)).await;
    beside.redis.stop();
    let without = tokio::time::timeout(limit, time_to_hear(&beside)).await;
    let (with, without) = (with.expect("heard"), without.expect("heard"));
    assert!(with < without, "{with:?} {without:?}");
}

/// How long it takes the other server to hear twenty times that a host is in, and out.
async fn time_to_hear(beside: &Beside) -> Duration {
    let begun = Instant::now();
    for _ in 0..20 {
        let host = beside.enrol().await;
        let peer: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/host/{}", host.id)
            .parse()
            .expect("an id");
        while !beside.other.fleet.admits(&peer) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let about = json!({"id": host.id});
        beside.one.call(&beside.admin, "hosts/delete", about).await;
        while beside.other.fleet.admits(&peer) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_shown_at_once_and_booked_now_and_then() {
    let beside = Beside::start().await;
    let host = beside.enrol().await;
    let booked = beside.booked(&host).await;
    let before = beside.shown(&host).await["last_heartbeat_at"].clone();
    tokio::time::sleep(Duration::from_millis(5)).await;
    beat(&beside.one, &host).await;
    assert_eq!(beside.booked(&host).await, booked, "not yet");
    let shown = beside.shown(&host).await;
    assert!(
        text(&shown["last_heartbeat_at"]) > text(&before),
        "{shown} {before}"
    );
    let listed = beside
        .other
        .call(&beside.admin, "hosts/list", json!({}))
        .await;
    assert!(
        listed.as_array().expect("a list").contains(&shown),
        "{listed} {shown}"
    );
    beside.unheard(&host, 121).await;
    beat(&beside.one, &host).await;
    assert!(beside.booked(&host).await > booked, "after two minutes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_unreachable_for_what_redis_knew_or_has_forgotten() {
    let mut beside = Beside::start().await;
    let (lively, dead) = (beside.enrol().await, beside.enrol().await);
    // Redis has known everything for long enough.
    let since = "UPDATE hosts SET last_heartbeat_at = last_heartbeat_at - 100000";
    beside.execute(since).await;
    beat(&beside.one, &lively).await;
    assert_eq!(beside.status(&lively).await, "online");
    assert_eq!(
        beside.status(&dead).await,
        "online",
        "Redis is too young to say"
    );
    beside.unheard(&dead, 120).await;
    within(
        Duration::from_secs(30),
        "the dead one is missed",
        async || beside.status(&dead).await == "unreachable",
    )
    .await;
    assert_eq!(beside.status(&lively).await, "online");
    beside.redis.crash();
    beat(&beside.other, &lively).await;
    assert_eq!(beside.status(&lively).await, "online");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_there_makes_nothing_wrong() {
    let beside = Beside::start().await;
    let (lively, dead) = (beside.enrol().await, beside.enrol().await);
    beside.spoil("presence").await;
    let booked = beside.booked(&lively).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    beat(&beside.one, &lively).await;
    assert!(
        beside.booked(&lively).await > booked,
        "the books note what Redis cannot"
    );
    beside.unheard(&dead, 211).await;
    within(
        Duration::from_secs(30),
        "the dead one is missed",
        async || beside.status(&dead).await == "unreachable",
    )
    .await;
    assert_eq!(beside.status(&lively).await, "online");
}
