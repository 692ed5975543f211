//! Two operations with little to do, and who may call them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::Path;
use axum::{Json, Router, routing};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use hostler_gateway::{AuthError, Credentials, IdentityProvider};
use hostler_operations::*;
use schemars::JsonSchema;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub(super) const PATH: &str = "/v1/things/anvil";
pub(super) const ENDING: &str = r#""weight_kg":50}"#;
/// As long as those of the daemon.
pub(super) const TOKEN: &str = "hst_0123456789abcdef0123456789abcdef";

const READ: Scope = Scope::new("things:read");
const PER_SECOND: u64 = 50;

/// A thing by its name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Get {
    name: String,
}

#[derive(Serialize, JsonSchema)]
struct Thing {
    name: String,
    weight_kg: u32,
}

/// Every tick of the clock.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Watch {}

/// A moment, in nanoseconds since 1970.
#[derive(Clone, Serialize, JsonSchema)]
struct Tick {
    at_ns: u64,
}

errors! {
    /// Nothing fails here.
    enum NoError {}
}

/// Where ticks are heard.
pub(super) struct Clock(broadcast::Sender<Tick>);

pub(super) fn now_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before 2554")
}

impl Clock {
    /// One that ticks as long as the runtime lives.
    pub(super) fn start() -> Arc<Self> {
        let clock = Arc::new(Self(broadcast::Sender::new(64)));
        let ticks = clock.0.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(1000 / PER_SECOND));
            loop {
                every.tick().await;
                // Nobody may listen.
                let _ = ticks.send(Tick { at_ns: now_ns() });
            }
        });
        clock
    }
}

pub(super) fn registry(clock: &Arc<Clock>) -> Arc<Registry> {
    let things = service("things").with(query("get", get).requires(READ).rest(
        Method::GET,
        "/v1/things/{name}",
        StatusCode::OK,
    ));
    let ticks = service("ticks").with(subscription("watch", watch).open());
    let registry = Registry::builder()
        .service(things, &Arc::new(()))
        .service(ticks, clock);
    registry.build().expect("the definitions agree")
}

async fn get(_: &(), _: Call, input: Get) -> Result<Thing, NoError> {
    Ok(thing(input.name))
}

fn thing(name: String) -> Thing {
    Thing {
        name,
        weight_kg: 50,
    }
}

async fn watch(clock: &Clock, _: Call, _: Watch) -> Result<Outputs<Tick, NoError>, NoError> {
    let ticks = stream::unfold(clock.0.subscribe(), |mut heard| async {
        Some((heard.recv().await.ok()?, heard))
    });
    Ok(ticks.map(Ok).boxed())
}

/// Knows one token.
pub(super) struct Porter;

impl IdentityProvider for Porter {
    fn resolve<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>> {
        let known = credentials.bearer.as_ref();
        let known = known.is_some_and(|token| token.expose_secret() == TOKEN);
        let reader = known.then(|| Identity::new("reader", Grants::from_iter([READ])));
        Box::pin(std::future::ready(Ok(reader)))
    }
}

/// The same as an axum router without anything around it.
pub(super) fn bare() -> Router {
    let get = async |Path(name): Path<String>| Json(thing(name));
    Router::new()
        .route("/healthz", routing::get(async || "ok"))
        .route("/v1/things/{name}", routing::get(get))
}
