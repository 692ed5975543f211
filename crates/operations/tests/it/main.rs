//! What a registry promises to every door that brings requests in.

mod protocol;
mod shelf;

use std::time::Duration;

use hostler_operations::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use shelf::{LEND, Library, READ, reader, registry};

fn request(identity: Option<Identity>, input: Value) -> Request {
    Request {
        input,
        identity,
        ..Request::default()
    }
}

async fn failure(name: &str, identity: Option<Identity>, input: Value) -> CallError {
    let (registry, _) = registry();
    registry
        .invoke(name, request(identity, input))
        .await
        .expect_err("it should have failed")
}

#[tokio::test]
async fn a_caller_without_an_identity_is_told_to_authenticate() {
    let error = failure("books/lend", None, json!({"title": "Dune"})).await;
    assert_eq!(
        (error.code(), error.message()),
        (&FORBIDDEN, "authentication required")
    );
}

#[tokio::test]
async fn who_may_not_call_learns_nothing_of_the_inputs_form() {
    let error = failure("books/lend", Some(reader(&[READ])), json!({"nonsense": 1})).await;
    assert_eq!(error.code(), &FORBIDDEN);
    assert!(error.message().contains("books:lend"), "{error}");
}

#[tokio::test]
async fn input_is_checked_before_the_handler_sees_it() {
    let (registry, library) = registry();
    let bad = request(
        Some(reader(&[LEND])),
        json!({"title": "Dune", "titel": "Dune"}),
    );
    let error = registry
        .invoke("books/lend", bad)
        .await
        .expect_err("an unknown field");
    assert_eq!(error.code(), &INVALID_INPUT);
    assert!(error.message().contains("titel"), "{error}");
    assert!(library.lent().is_empty());
}

#[tokio::test]
async fn an_internal_operation_does_not_exist_from_outside() {
    let admin = Some(Identity::new("root", Grants::All));
    let internal = failure("books/burn", admin.clone(), json!({"title": "Dune"})).await;
    let missing = failure("books/nothing", admin, json!({})).await;
    assert_eq!(internal.code(), missing.code());
    assert_eq!(
        internal.message().replace("burn", "nothing"),
        missing.message(),
        "the two must not be told apart"
    );
}

#[tokio::test]
async fn a_composed_call_reaches_what_was_declared_and_nothing_else() {
    let (registry, library) = registry();
    let ada = Some(reader(&[LEND]));
    let reply = registry
        .invoke("books/purge", request(ada, json!({})))
        .await
        .expect("purged");
    assert_eq!(reply.output, json!({"burnt": "NOT_FOUND for books/lend"}));
    assert_eq!(
        library.burnt(),
        [("Dune".to_owned(), "operation:books/purge".to_owned())]
    );
}

#[tokio::test]
async fn a_panic_becomes_internal_and_its_text_stays_here() {
    let error = failure("books/trip", Some(reader(&[READ])), json!({})).await;
    assert_eq!(error.code(), &INTERNAL);
    assert!(!error.message().contains("stumbled"), "{error}");
}

#[tokio::test]
async fn an_undeclared_code_becomes_internal() {
    let error = failure("books/lie", Some(reader(&[READ])), json!({})).await;
    assert_eq!(error.code(), &INTERNAL);
    assert!(
        error
            .cause()
            .is_some_and(|cause| cause.contains("SECRET_CODE"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_a_timeout_worth_retrying() {
    let error = failure("books/wait", Some(reader(&[READ])), json!({})).await;
    assert_eq!(error.code(), &TIMEOUT);
    assert!(error.code().is_retryable());
}

#[tokio::test]
async fn a_mutation_whose_caller_left_runs_to_its_end() {
    let (registry, library) = registry();
    let call = registry.invoke("books/copy", request(Some(reader(&[LEND])), json!({})));
    // The caller leaves once the handler has begun.
    tokio::select! {
        _ = call => panic!("it cannot end before it is let go"),
        () = library.copying.notified() => {}
    }
    library.let_go.notify_one();
    tokio::time::timeout(Duration::from_secs(10), library.copied.notified())
        .await
        .expect("copied");
}

#[tokio::test]
async fn a_query_whose_caller_left_is_dropped() {
    let (registry, library) = registry();
    let cancelled = CancellationToken::new();
    let mut waiting = request(Some(reader(&[READ])), json!({}));
    waiting.cancelled = cancelled.clone();
    let answer = tokio::spawn(async move { registry.invoke("books/wait", waiting).await });
    library.waiting.notified().await;
    cancelled.cancel();
    answer
        .await
        .expect("no panic")
        .expect_err("nobody waits for it");
    tokio::time::timeout(Duration::from_secs(10), library.dropped.notified())
        .await
        .expect("its future was dropped");
}

#[tokio::test]
async fn a_subscription_streams_until_its_first_error() {
    use futures::StreamExt;
    let (registry, _) = registry();
    let outputs = registry
        .subscribe(
            "books/watch",
            request(Some(reader(&[READ])), json!({"upto": 2})),
        )
        .await
        .expect("subscribed");
    let seen: Vec<_> = outputs.collect().await;
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!(seen[1].as_ref().expect("a number"), &json!(2));
    assert_eq!(seen[2].as_ref().expect_err("the end").code(), &NOT_FOUND);
}

fn stumbling(when: &str) -> Request {
    request(Some(reader(&[READ])), json!({ "when": when }))
}

#[tokio::test]
async fn a_subscription_that_panics_ends_with_internal_and_its_text_stays_here() {
    use futures::StreamExt;
    let (registry, _) = registry();
    let begun = registry.subscribe("books/stumble", stumbling("before"));
    let error = begun.await.err().expect("it panics");
    assert_eq!(error.code(), &INTERNAL);
    assert!(!error.message().contains("stumbled"), "{error}");

    let begun = registry.subscribe("books/stumble", stumbling("during"));
    let seen: Vec<_> = begun.await.expect("subscribed").collect().await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[1].as_ref().expect_err("the end").code(), &INTERNAL);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_does_not_begin_is_a_timeout_and_is_dropped() {
    let (registry, library) = registry();
    let begun = registry.subscribe("books/stumble", stumbling("never"));
    let error = begun.await.err().expect("it never begins");
    assert_eq!(error.code(), &TIMEOUT);
    library.dropped.notified().await;
}

#[tokio::test]
async fn a_subscription_ends_when_its_request_is_cancelled() {
    use futures::StreamExt;
    let (registry, _) = registry();
    let request = stumbling("still");
    let cancelled = request.cancelled.clone();
    let begun = registry.subscribe("books/stumble", request).await;
    let mut outputs = Box::pin(begun.expect("subscribed"));
    assert!(outputs.next().await.is_some());
    cancelled.cancel();
    let end = tokio::time::timeout(Duration::from_secs(10), outputs.next()).await;
    assert!(end.expect("it ends").is_none());
}

#[tokio::test]
async fn the_next_page_is_told_beside_the_output() {
    let (registry, _) = registry();
    let asked = request(Some(reader(&[READ])), json!({}));
    let reply = registry.invoke("books/list", asked).await.expect("a list");
    assert_eq!(reply.output, json!(["Dune"]));
    assert_eq!(reply.next_cursor.as_deref(), Some("after-dune"));
}

#[tokio::test]
async fn discovery_shows_each_caller_what_that_caller_may_use() {
    let (registry, _) = registry();
    let names = async |identity| {
        let reply = registry
            .invoke("services/list", request(identity, json!({})))
            .await;
        let output = reply.expect("a list").output;
        let names = output
            .as_array()
            .expect("an array")
            .iter()
            .map(|o| o["name"].clone());
        names
            .filter_map(|n| n.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(None).await, ["services/list", "services/schema"]);
    let readers = names(Some(reader(&[READ]))).await;
    assert!(
        readers.contains(&"books/list".to_owned()) && !readers.contains(&"books/lend".to_owned())
    );
    let admins = names(Some(Identity::new("root", Grants::All))).await;
    assert!(
        admins.contains(&"books/lend".to_owned()) && !admins.contains(&"books/burn".to_owned())
    );

    let asked = |identity| request(identity, json!({"operation": "books/lend"}));
    let hidden = registry
        .invoke("services/schema", asked(None))
        .await
        .expect_err("not for all");
    assert_eq!(hidden.code(), &NOT_FOUND);
    let shown = registry
        .invoke("services/schema", asked(Some(reader(&[LEND]))))
        .await;
    let shown = shown.expect("a description").output;
    assert_eq!(shown["input"]["properties"]["title"]["type"], "string");
    assert_eq!(shown["errors"][0]["code"], "TAKEN");
    assert_eq!(shown["rest"][0], "POST /v1/books/{title}/lend");
    assert_eq!(shown["description"], "Lends a book to the caller.");
}

#[test]
fn contradictory_definitions_are_refused_when_the_registry_is_built() {
    use shelf::{ListBooks, list};
    let library = std::sync::Arc::new(Library::default());
    let build = |operations: Service<Library>| {
        let built = Registry::builder().service(operations, &library).build();
        built.err().expect("a contradiction").to_string()
    };
    let get = |name| query::<_, ListBooks, _, _, _>(name, list).open();
    let twice = build(service("books").with(get("list")).with(get("list")));
    assert_eq!(twice, "the operation books/list is defined twice");
    let route =
        |operation: Operation<Library>, path| operation.rest(Method::GET, path, StatusCode::OK);
    let routes = service("books")
        .with(route(get("a"), "/v1/b"))
        .with(route(get("b"), "/v1/b"));
    assert!(build(routes).contains("leads to both"));
    let unknown = build(service("books").with(route(get("list"), "/v1/books/{isbn}")));
    assert!(unknown.contains("isbn"), "{unknown}");
    assert!(build(service("Books").with(get("list"))).contains("is not a word"));
    let composes = build(service("books").with(get("list").composes([], ["books/nothing"])));
    assert!(composes.contains("books/nothing"), "{composes}");
}
