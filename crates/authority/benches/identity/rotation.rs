//! Rotation under load: a hundred of them in a minute, on both ends, and every request counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hostler_authority::Authority;
use hostler_identity::{Authorizer, Client, PeerIdentity, Server, Source, SourceWriter, Svid};

use crate::servers::{authority, id, issue};
use crate::table::Table;

const ROTATIONS: u32 = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// Callers that keep their connections, and callers that make one for each request.
const KEEPING: usize = 6;
const FRESH: usize = 2;

#[derive(Default)]
struct Traffic {
    over: AtomicBool,
    kept: AtomicU64,
    fresh: AtomicU64,
    failed: AtomicU64,
}

pub(crate) fn measure(table: &mut Table) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let traffic = runtime.block_on(minute());
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    table.row(
        &format!(
            "failed requests over {ROTATIONS} rotations of server and client in {} s ({} on live \
             connections, {} on fresh ones)",
            MINUTE.as_secs(),
            count(&traffic.kept),
            count(&traffic.fresh),
        ),
        count(&traffic.failed).to_string(),
        "-",
        "-",
        "0",
    );
}

fn svid(authority: &Authority, path: &str) -> Svid {
    let (chain, key) = issue(authority, path);
    Svid::from_pem(&chain, &key).expect("an SVID")
}

fn source(authority: &Authority, path: &str) -> (Source, SourceWriter) {
    Source::memory(svid(authority, path), authority.bundles())
}

async fn minute() -> Traffic {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority(directory.path());
    let (api, api_writer) = source(&authority, "/api");
    let (web, web_writer) = source(&authority, "/web");
    let server = Server::bind("127.0.0.1:0", &api, Authorizer::id(id("/web"))).await;
    let server = server.expect("a port");
    let url = format!("https://{}/", server.local_addr().expect("its address"));
    let app = Router::new().route("/", get(async |peer: PeerIdentity| peer.id().to_string()));
    let serving = tokio::spawn(server.serve(app, std::future::pending()));

    let traffic = std::sync::Arc::new(Traffic::default());
    let mut callers = Vec::new();
    for caller in 0..KEEPING + FRESH {
        let (traffic, web, url) = (traffic.clone(), web.clone(), url.clone());
        callers.push(tokio::spawn(async move {
            let client = || Client::new(&web, Authorizer::id(id("/api")));
            let kept = (caller < KEEPING).then(&client);
            while !traffic.over.load(Ordering::Relaxed) {
                let (answer, counter) = match &kept {
                    Some(client) => (client.get(&url).await, &traffic.kept),
                    None => (client().get(&url).await, &traffic.fresh),
                };
                counter.fetch_add(1, Ordering::Relaxed);
                if !answer.is_ok_and(|answer| answer.status().is_success()) {
                    traffic.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let mut ticks = tokio::time::interval(MINUTE / ROTATIONS);
    for _ in 0..ROTATIONS {
        ticks.tick().await;
        assert!(api_writer.replace_svid(svid(&authority, "/api")));
        assert!(web_writer.replace_svid(svid(&authority, "/web")));
    }
    ticks.tick().await;
    traffic.over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("a caller");
    }
    serving.abort();
    std::sync::Arc::into_inner(traffic).expect("nobody else has it")
}
