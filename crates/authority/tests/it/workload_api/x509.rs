//! X.509-SVIDs and their bundles, over renewals, rotations and withdrawals.

use axum::Router;
use axum::routing::get;
use hostler_authority::workload_api::{Entries, Entry};
use hostler_authority::{Authority, Lifetimes};
use hostler_identity::{Authorizer, Client, PeerIdentity, Server, Source, Unavailable};
use jiff::{SignedDuration, Timestamp};
use spiffe::{WorkloadApiError, X509Source};
use tokio_stream::StreamExt;

use super::{Running, entry, my_uid, soon, web};
use crate::support::{DAY, domain, enrol, id, new, open_at};

async fn their_source(running: &Running) -> X509Source {
    let source = X509Source::builder().endpoint(&running.endpoint).build();
    soon(source).await.unwrap()
}

/// An authority whose SVIDs live for six seconds, so that they are renewed every three.
fn hasty() -> (Authority, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let lifetimes = Lifetimes {
        svid: SignedDuration::from_secs(6),
        ..Default::default()
    };
    let authority = Authority::open_with(dir.path(), domain(), lifetimes, Timestamp::now());
    (authority.unwrap(), dir)
}

#[tokio::test]
async fn a_workload_gets_its_identity_and_every_renewal_of_it() {
    let (authority, _dir) = hasty();
    let running = Running::new(&authority, web());
    let source = their_source(&running).await;
    let mut updates = source.updated();
    let mut last = source.svid().unwrap();
    assert_eq!(last.spiffe_id(), &id("/web"));
    for _ in 0..2 {
        soon(updates.changed()).await.unwrap();
        let next = source.svid().expect("it is renewed before it expires");
        assert_ne!(next.cert_chain()[0], last.cert_chain()[0]);
        assert_ne!(
            next.private_key().as_bytes(),
            last.private_key().as_bytes(),
            "with a key of its own"
        );
        last = next;
    }
    soon(source.shutdown()).await;
}

#[tokio::test]
async fn a_new_root_reaches_every_workload_before_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    let authority = open_at(dir.path(), begin).unwrap();
    let running = Running::new(&authority, web());
    let source = their_source(&running).await;
    let roots = || {
        let bundle = source.bundle_set().unwrap().get(&domain()).unwrap();
        bundle.authorities().len()
    };
    assert_eq!(roots(), 1);
    let mut updates = source.updated();
    enrol(&authority, "/moves-on", begin + DAY * 16);
    soon(updates.changed()).await.unwrap();
    assert_eq!(roots(), 2);
    soon(source.shutdown()).await;
}

#[tokio::test]
async fn our_server_and_client_live_on_it_over_renewals() {
    let (authority, _dir) = hasty();
    let api = Running::new(&authority, Entries::from_iter([entry("/api")]));
    let web = Running::new(&authority, web());
    let mut api = soon(Source::workload_api(&api.endpoint)).await.unwrap();
    let web = soon(Source::workload_api(&web.endpoint)).await.unwrap();
    let server = Server::bind("127.0.0.1:0", &api, Authorizer::id(id("/web")));
    let server = server.await.unwrap();
    let url = format!("https://{}/", server.local_addr().unwrap());
    let hello = get(|peer: PeerIdentity| async move { peer.id().to_string() });
    let app = Router::new().route("/", hello);
    let serving = tokio::spawn(server.serve(app, std::future::pending()));
    for _ in 0..3 {
        // A client of its own for each request, so that each shakes hands anew.
        let client = Client::new(&web, Authorizer::id(id("/api")));
        let answer = soon(client.get(&url)).await.unwrap();
        assert_eq!(answer.body(), "spiffe://a.example/web");
        soon(api.changed()).await.unwrap();
    }
    serving.abort();
}

#[tokio::test]
async fn a_workload_without_an_entry_is_told_so_at_once_and_why() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, Entries::default());
    let client = running.client().await;
    let refused = soon(client.fetch_x509_context()).await.unwrap_err();
    let WorkloadApiError::PermissionDenied(reason) = &refused else {
        panic!("{refused:?}");
    };
    let me = std::env::current_exe().unwrap();
    for known in [
        "no registration entry".to_owned(),
        format!("{}", my_uid()),
        format!("unix:pid:{}", std::process::id()),
        format!("unix:path:{}", me.display()),
    ] {
        assert!(reason.contains(&known), "{known} is not in {reason}");
    }
    let ours = soon(Source::workload_api(&running.endpoint)).await;
    assert!(ours.unwrap_err().to_string().contains("unix:pid:"));
}

#[tokio::test]
async fn an_entry_that_comes_goes_and_returns_is_followed() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let mut source = soon(Source::workload_api(&running.endpoint)).await.unwrap();
    let first = source.svid().unwrap();
    running.entries.send_replace(Entries::default());
    soon(source.changed()).await.unwrap();
    assert_eq!(source.id(), Err(Unavailable::Withdrawn));
    running.entries.send_replace(web());
    soon(source.changed()).await.unwrap();
    assert_eq!(
        source.svid().unwrap().chain(),
        first.chain(),
        "it was still good"
    );
    running
        .entries
        .send_replace(Entries::from_iter([entry("/other")]));
    soon(source.changed()).await.unwrap();
    assert_eq!(source.id().unwrap(), id("/other"));
}

#[tokio::test]
async fn a_change_that_does_not_concern_a_workload_does_not_disturb_it() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let client = running.client().await;
    let mut stream = soon(client.stream_x509_contexts()).await.unwrap();
    soon(stream.next()).await.unwrap().unwrap();
    let stranger = Entry::new(
        id("/stranger"),
        [hostler_authority::workload_api::Selector::Uid(u32::MAX)],
    );
    let more = Entries::from_iter([entry("/web"), stranger.unwrap()]);
    running.entries.send_replace(more);
    // What concerns it comes next, so the other change has said nothing.
    let both = Entries::from_iter([entry("/web"), entry("/second")]);
    running.entries.send_replace(both);
    let next = soon(stream.next()).await.unwrap().unwrap();
    assert_eq!(next.svids().len(), 2);
}

#[tokio::test]
async fn several_entries_are_several_identities_the_first_one_by_default() {
    let (authority, _dir) = new();
    let hinted = |path: &str, hint: &str| entry(path).with_hint(hint).unwrap();
    let running = Running::new(
        &authority,
        Entries::from_iter([
            hinted("/inside", "internal"),
            hinted("/outside", "external"),
            hinted("/also-inside", "internal"),
            hinted("/inside", "internal"),
        ]),
    );
    let client = running.client().await;
    let svids = soon(client.fetch_all_x509_svids()).await.unwrap();
    let told: Vec<_> = svids
        .iter()
        .map(|svid| (svid.spiffe_id().path(), svid.hint().unwrap_or_default()))
        .collect();
    let expected = [
        ("/inside", "internal"),
        ("/outside", "external"),
        ("/also-inside", ""),
    ];
    assert_eq!(
        told, expected,
        "a hint stands once, and so does an identity"
    );
    let default = soon(client.fetch_x509_svid()).await.unwrap();
    assert_eq!(default.spiffe_id(), &id("/inside"));
}

#[tokio::test]
async fn bundles_are_to_be_had_alone_but_not_by_strangers() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let client = running.client().await;
    let bundles = soon(client.fetch_x509_bundles()).await.unwrap();
    let theirs = bundles.get(&domain()).unwrap();
    let ours = authority.bundles();
    assert_eq!(
        theirs.authorities()[0].as_bytes(),
        &ours.get(&domain()).unwrap()[0][..]
    );
    running.entries.send_replace(Entries::default());
    let refused = soon(client.fetch_x509_bundles()).await;
    assert!(matches!(
        refused,
        Err(WorkloadApiError::PermissionDenied(_))
    ));
}

#[tokio::test]
async fn many_workloads_share_one_key_and_all_learn_of_a_change() {
    const STREAMS: usize = 200;
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let mut streams = Vec::new();
    let mut leaf = None;
    for _ in 0..STREAMS {
        let client = running.client().await;
        let mut stream = soon(client.stream_x509_svids()).await.unwrap();
        let first = soon(stream.next()).await.unwrap().unwrap();
        let leaf = leaf.get_or_insert_with(|| first.cert_chain()[0].clone());
        assert_eq!(&first.cert_chain()[0], leaf);
        streams.push(stream);
    }
    running
        .entries
        .send_replace(Entries::from_iter([entry("/next")]));
    for stream in &mut streams {
        let next = soon(stream.next()).await.unwrap().unwrap();
        assert_eq!(next.spiffe_id(), &id("/next"));
    }
}
