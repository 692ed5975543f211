//! The call protocol over real connections, as our client speaks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hostler_gateway::{Admission, CallClient, DoorLimits};
use hostler_identity::Authorizer;
use hostler_operations::ErrorObject;
use hostler_operations::protocol::AuthToken;
use rustls::RootCertStore;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};

use crate::door::{Ca, uri};
use crate::shelf::Shelf;
use crate::world::{World, now_millis, soon};

pub(crate) fn token(token: &str) -> Option<AuthToken> {
    Some(AuthToken::new(token))
}

pub(crate) async fn one(what: &str, permits: &Semaphore) {
    let permit = soon(what, permits.acquire()).await;
    permit.expect("the shelf stays").forget();
}

pub(crate) async fn call(
    client: &CallClient,
    operation: &str,
    input: Value,
    token: Option<AuthToken>,
) -> Result<Value, ErrorObject> {
    soon(operation, client.call(operation, input, token)).await
}

/// The code and the message of what failed.
pub(crate) fn failure(answer: Result<Value, ErrorObject>) -> (String, String) {
    let error = answer.expect_err("it is refused");
    (error.code, error.message)
}

#[tokio::test]
async fn a_call_is_answered_in_the_name_of_its_token() {
    let world = World::start().await;
    let client = world.caller().await;
    let books = call(&client, "/books/list", json!({}), token("reader")).await;
    assert_eq!(books.expect("books").as_array().map(Vec::len), Some(3));
    let who = call(&client, "/rooms/who", json!({}), token("writer")).await;
    assert_eq!(who.expect("somebody")["subject"], "writer");
    let who = call(&client, "/rooms/who", json!({}), None).await;
    let who = who.expect("nobody");
    assert_eq!(
        (&who["subject"], &who["remote"]),
        (&Value::Null, &json!("127.0.0.1"))
    );
}

#[tokio::test]
async fn what_goes_wrong_has_the_codes_of_the_protocol() {
    let world = World::start().await;
    let client = world.caller().await;
    let no_input = || json!({});
    for (operation, input, token, code, said) in [
        (
            "/books/list",
            no_input(),
            None,
            "FORBIDDEN",
            "authentication required",
        ),
        (
            "/books/list",
            no_input(),
            token("stolen"),
            "FORBIDDEN",
            "this token is unknown",
        ),
        (
            "/books/create",
            no_input(),
            token("reader"),
            "FORBIDDEN",
            "books:write",
        ),
        (
            "/books/shred",
            no_input(),
            token("writer"),
            "NOT_FOUND",
            "/books/shred",
        ),
        (
            "/books/burn",
            no_input(),
            token("writer"),
            "NOT_FOUND",
            "/books/burn",
        ),
        (
            "books/list",
            no_input(),
            token("writer"),
            "NOT_FOUND",
            "books/list",
        ),
        ("", no_input(), None, "NOT_FOUND", ""),
        (
            "/books/list",
            json!({"odd": 1}),
            token("reader"),
            "INVALID_INPUT",
            "odd",
        ),
        (
            "/books/list",
            json!([]),
            token("reader"),
            "INVALID_INPUT",
            "",
        ),
        (
            "/books/lend",
            json!({"title": "Dune"}),
            token("reader"),
            "ALL_OUT",
            "all copies",
        ),
        (
            "/books/list",
            no_input(),
            token("nobody-home"),
            "INTERNAL",
            "checked now",
        ),
        (
            "/rooms/dawdle",
            no_input(),
            None,
            "TIMEOUT",
            "no answer within",
        ),
        ("/rooms/trip", no_input(), None, "INTERNAL", ""),
    ] {
        let answer = call(&client, operation, input, token).await;
        let (told, message) = failure(answer);
        assert_eq!(told, code, "{operation}: {message}");
        assert!(message.contains(said), "{operation}: {message}");
        assert!(
            !message.contains("asleep") && !message.contains("secret"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_peer_is_known_by_its_certificate_and_a_token_goes_before_it() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let no_roots = RootCertStore::empty();
    let world = World::behind(&tls, no_roots, DoorLimits::default(), |adapter| adapter).await;
    let (guest, _guest_writer) = ca.source("spiffe://shelf.test/guest/7");
    let tls = hostler_identity::client_config(&guest, Authorizer::any());
    let connecting = CallClient::builder(tls).connect(world.address, "localhost");
    let client = soon("the handshake", connecting)
        .await
        .expect("a handshake");
    let who = call(&client, "/rooms/who", json!({}), None)
        .await
        .expect("a guest");
    assert_eq!(who["subject"], "spiffe://shelf.test/guest/7");
    let who = call(&client, "/rooms/who", json!({}), token("reader")).await;
    assert_eq!(who.expect("a reader")["subject"], "reader");
}

#[tokio::test]
async fn a_peer_that_is_admitted_no_more_is_cut_and_nobody_else() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let (dismissed, changed) = watch::channel(());
    let seven_is_out = Arc::new(AtomicBool::new(false));
    let is_out = Arc::clone(&seven_is_out);
    let admission = Admission::new(
        move |id| id.path() != "/guest/7" || !is_out.load(Ordering::SeqCst),
        changed,
    );
    let (no_roots, limits) = (RootCertStore::empty(), DoorLimits::default());
    let world = World::admitting(&tls, no_roots, limits, |adapter| adapter, Some(admission)).await;
    let connect = async |id| {
        let (source, writer) = ca.source(id);
        let tls = hostler_identity::client_config(&source, Authorizer::any());
        let connecting = CallClient::builder(tls).connect(world.address, "localhost");
        let client = soon("the handshake", connecting).await;
        (client.expect("a handshake"), writer)
    };
    let (out, _out_writer) = connect("spiffe://shelf.test/guest/7").await;
    let (stays, _stays_writer) = connect("spiffe://shelf.test/guest/8").await;
    let nap = out.call("/rooms/nap", json!({}), None);
    let dismiss = async {
        one("a nap", &world.shelf.napping).await;
        seven_is_out.store(true, Ordering::SeqCst);
        dismissed.send_replace(());
    };
    let (nap, ()) = soon("the cut", async { tokio::join!(nap, dismiss) }).await;
    assert_eq!(failure(nap).1, "connection closed");
    one("the end of its nap", &world.shelf.disturbed).await;
    call(&stays, "/rooms/who", json!({}), None)
        .await
        .expect("an answer");
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_it_began_with() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let no_roots = RootCertStore::empty();
    let world = World::behind(&tls, no_roots, DoorLimits::default(), |adapter| adapter).await;
    let end = OffsetDateTime::now_utc() + Duration::from_secs(5);
    let guest = ca.issue_until(uri("spiffe://shelf.test/guest/7"), Some(end));
    let (guest, _guest_writer) = ca.source_from(guest);
    let tls = hostler_identity::client_config(&guest, Authorizer::any());
    let connecting = CallClient::builder(tls).connect(world.address, "localhost");
    let client = soon("the handshake", connecting)
        .await
        .expect("a handshake");
    call(&client, "/rooms/who", json!({}), None)
        .await
        .expect("an answer");
    // Long before anything else would end it; that it is before the end, a busy machine cannot tell.
    soon("the end", client.closed()).await;
}

#[tokio::test]
async fn a_subscription_brings_its_outputs_and_its_end() {
    let world = World::start().await;
    let client = world.caller().await;
    let mut watch = client
        .subscribe("/books/watch", json!({"count": 3}), token("reader"))
        .await
        .expect("a stream");
    for expected in 1..=3 {
        let output = soon("an output", watch.next()).await;
        assert_eq!(output.expect("no error"), Some(json!(expected)));
    }
    assert_eq!(soon("the end", watch.next()).await, Ok(None));

    let input = json!({"count": 1, "then": "fail"});
    let watch = client
        .subscribe("/books/watch", input, token("reader"))
        .await;
    let mut watch = watch.expect("a stream");
    assert_eq!(soon("an output", watch.next()).await, Ok(Some(json!(1))));
    let error = soon("the error", watch.next()).await.expect_err("it fails");
    assert_eq!((error.code.as_str(), error.retryable), ("ALL_OUT", true));

    let refused = client.subscribe("/books/watch", json!({}), None).await;
    let error = soon("a refusal", refused.expect("a stream").next()).await;
    assert_eq!(error.expect_err("it is refused").code, "FORBIDDEN");
}

#[tokio::test]
async fn a_subscription_ends_when_what_it_began_with_is_not_good_any_more() {
    let world = World::start().await;
    let client = world.caller().await;
    let briefly = token(&format!("reader-until-{}", now_millis() + 1000));
    let input = json!({"count": 1, "then": "wait"});
    let watch = client.subscribe("/books/watch", input, briefly).await;
    let mut watch = watch.expect("a stream");
    assert_eq!(soon("an output", watch.next()).await, Ok(Some(json!(1))));
    let error = soon("its end", watch.next()).await.expect_err("it is over");
    assert_eq!(error.code, "FORBIDDEN");
}

#[tokio::test]
async fn calls_at_one_time_do_not_wait_for_each_other() {
    let world = World::start().await;
    let client = world.caller().await;
    let nap = client.call("/rooms/nap", json!({}), None);
    let calls = async {
        one("a nap", &world.shelf.napping).await;
        let weighing = (0..200).map(|n| {
            let text = "x".repeat(n);
            client.call("/rooms/weigh", json!({"text": text}), None)
        });
        let weighed = futures::future::join_all(weighing).await;
        for (n, answer) in weighed.into_iter().enumerate() {
            assert_eq!(answer, Ok(json!(n)));
        }
        world.shelf.wake.add_permits(1);
    };
    let (nap, ()) = soon("all of them", async { tokio::join!(nap, calls) }).await;
    assert_eq!(nap, Ok(json!("well rested")));
}

#[tokio::test]
async fn what_can_be_called_is_found_out_by_calling() {
    let world = World::start().await;
    let client = world.caller().await;
    let names = async |token| {
        let listed = call(&client, "/services/list", json!({}), token).await;
        let listed = listed.expect("a list");
        let names = listed.as_array().expect("a list").iter();
        let names = names.map(|summary| summary["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    let (reader, stranger) = (names(token("reader")).await, names(None).await);
    assert!(reader.contains(&"books/list".to_owned()), "{reader:?}");
    assert!(!stranger.contains(&"books/list".to_owned()), "{stranger:?}");
    assert!(!reader.contains(&"books/shred".to_owned()), "{reader:?}");
    let input = json!({"operation": "books/get"});
    let schema = call(&client, "/services/schema", input, token("reader")).await;
    let schema = schema.expect("a schema");
    assert_eq!(schema["input"]["properties"]["title"]["type"], "string");
}

#[tokio::test]
async fn a_door_calls_its_guests() {
    let world = World::start().await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    let guest = world.guest().await;
    let who = soon("an answer", guest.call("/rooms/who", json!({}), None)).await;
    assert_eq!(who.expect("an answer")["subject"], Value::Null);
    let input = json!({"count": 2});
    let watch = guest
        .subscribe("/books/watch", input, token("reader"))
        .await;
    let mut watch = watch.expect("a stream");
    for expected in [Some(json!(1)), Some(json!(2)), None] {
        assert_eq!(soon("an output", watch.next()).await, Ok(expected));
    }
    // Both call at one time, and on behalf of each other.
    let back = json!({"operation": "/rooms/who"});
    let answer = call(&client, "/rooms/ask-back", back, None)
        .await
        .expect("an answer");
    assert_eq!(answer["remote"], "127.0.0.1");
    client.close().await;
    soon("the end", guest.closed()).await;
    let late = guest.call("/rooms/who", json!({}), None).await;
    assert_eq!(
        failure(late),
        ("INTERNAL".into(), "connection closed".into())
    );
}

#[tokio::test]
async fn streams_are_given_back_however_many_calls_there_are() {
    let world = World::limited(|limits| limits.strangers = None, |_| {}).await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    // More than either end allows the other at one time.
    for n in 0..300 {
        let back = json!({"operation": "/rooms/who"});
        let answer = call(&client, "/rooms/ask-back", back, None).await;
        assert!(answer.is_ok_and(|who| who["remote"] == "127.0.0.1"), "{n}");
        let pour = client.subscribe("/rooms/pour", json!({"bytes": 9, "cups": n % 2}), None);
        let mut pour = soon("a stream", pour).await.expect("a stream");
        if n % 2 == 1 {
            assert_eq!(
                soon("a cup", pour.next()).await,
                Ok(Some(json!("~".repeat(9))))
            );
        }
        if n % 3 == 0 {
            assert_eq!(soon("the end", pour.next()).await, Ok(None));
        }
    }
}

#[tokio::test]
async fn a_guest_without_operations_answers_that_there_are_none() {
    let world = World::start().await;
    let client = world.caller().await;
    let back = json!({"operation": "/rooms/who"});
    let answer = call(&client, "/rooms/ask-back", back, None)
        .await
        .expect("an answer");
    assert_eq!(answer["code"], "NOT_FOUND");
}

#[tokio::test]
async fn an_abort_reaches_the_handler_and_what_it_called_in_turn() {
    let world = World::start().await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    {
        let mut nap = std::pin::pin!(client.call("/rooms/nap", json!({}), None));
        tokio::select! {
            answer = nap.as_mut() => panic!("{answer:?}"),
            () = one("a nap", &world.shelf.napping) => {}
        }
    }
    one("its end", &world.shelf.disturbed).await;
    {
        let back = json!({"operation": "/rooms/nap"});
        let mut asked = std::pin::pin!(client.call("/rooms/ask-back", back, None));
        tokio::select! {
            answer = asked.as_mut() => panic!("{answer:?}"),
            () = one("a nap of the guest's", &theirs.napping) => {}
        }
    }
    one("the end of the guest's nap", &theirs.disturbed).await;
    let pour = client
        .subscribe("/rooms/pour", json!({"bytes": 10}), None)
        .await;
    let mut pour = pour.expect("a stream");
    soon("a cup", pour.next()).await.expect("a cup");
    drop(pour);
    one("its end", &world.shelf.spared).await;
    let who = call(&client, "/rooms/who", json!({}), None).await;
    assert!(who.is_ok(), "the connection goes on: {who:?}");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_aborted_at_both_ends() {
    let world = World::start().await;
    let client = world.caller().await;
    let hasty = client.clone().timeout(Duration::from_millis(50));
    let answer = soon("a time-out", hasty.call("/rooms/nap", json!({}), None)).await;
    let error = answer.expect_err("nobody wakes it");
    assert_eq!((error.code.as_str(), error.retryable), ("TIMEOUT", true));
    one("its end", &world.shelf.disturbed).await;
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_ends_calls_at_both_ends() {
    let world = World::start().await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    let guest = world.guest().await;
    let caller = (*client).clone();
    let ours = tokio::spawn(async move { caller.call("/rooms/nap", json!({}), None).await });
    let back = tokio::spawn(async move { guest.call("/rooms/nap", json!({}), None).await });
    one("a nap", &world.shelf.napping).await;
    one("a nap of the guest's", &theirs.napping).await;
    drop(client);
    one("its end", &world.shelf.disturbed).await;
    one("the end of the guest's", &theirs.disturbed).await;
    for call in [ours, back] {
        let answer = soon("its end", call).await.expect("no panic");
        assert_eq!(
            failure(answer),
            ("INTERNAL".into(), "connection closed".into())
        );
    }
}

#[tokio::test]
async fn a_closing_door_ends_streams_and_lets_answers_finish() {
    let world = World::start().await;
    let client = world.caller().await;
    let input = json!({"count": 1, "then": "wait"});
    let watch = client
        .subscribe("/books/watch", input, token("reader"))
        .await;
    let mut watch = watch.expect("a stream");
    assert_eq!(soon("an output", watch.next()).await, Ok(Some(json!(1))));
    let caller = (*client).clone();
    let nap = tokio::spawn(async move { caller.call("/rooms/nap", json!({}), None).await });
    one("a nap", &world.shelf.napping).await;
    world.shutdown.cancel();
    let ended = soon("its end", watch.next())
        .await
        .expect_err("it is given up");
    assert_eq!(
        (ended.code.as_str(), ended.message.as_str()),
        ("INTERNAL", "aborted")
    );
    let refused = call(&client, "/rooms/who", json!({}), None).await;
    assert!(refused.expect_err("it is leaving").retryable);
    world.shelf.wake.add_permits(1);
    let nap = soon("the nap", nap).await.expect("no panic");
    assert_eq!(nap, Ok(json!("well rested")));
    soon("the door", world.served).await.expect("no panic");
    soon("the connection", client.closed()).await;
}
