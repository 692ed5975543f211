//! A small library to call operations on.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use hostler_operations::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub(crate) const READ: Scope = Scope::new("books:read");
pub(crate) const LEND: Scope = Scope::new("books:lend");

#[derive(Default)]
pub(crate) struct Library {
    lent: Mutex<Vec<String>>,
    burnt: Mutex<Vec<(String, String)>>,
    pub(crate) copying: Notify,
    pub(crate) let_go: Notify,
    pub(crate) copied: Notify,
    pub(crate) waiting: Notify,
    pub(crate) dropped: Notify,
}

impl Library {
    pub(crate) fn lent(&self) -> Vec<String> {
        self.lent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn burnt(&self) -> Vec<(String, String)> {
        self.burnt
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

pub(crate) fn reader(scopes: &[Scope]) -> Identity {
    Identity::new("ada", scopes.iter().cloned().collect())
}

pub(crate) fn registry() -> (Arc<Registry>, Arc<Library>) {
    let library = Arc::new(Library::default());
    let registry = Registry::builder().service(operations(), &library).build();
    (registry.expect("the definitions agree"), library)
}

fn operations() -> Service<Library> {
    service("books")
        .with(
            query("list", list)
                .requires(READ)
                .rest(Method::GET, "/v1/books", StatusCode::OK),
        )
        .with(mutation("lend", lend).requires(LEND).rest(
            Method::POST,
            "/v1/books/{title}/lend",
            StatusCode::CREATED,
        ))
        .with(mutation("burn", burn).internal())
        .with(
            mutation("purge", purge)
                .requires(LEND)
                .composes([], ["books/burn"]),
        )
        .with(mutation("copy", copy).requires(LEND))
        .with(query("trip", trip).requires(READ))
        .with(query("lie", lie).requires(READ))
        .with(query("wait", wait).requires(READ))
        .with(subscription("watch", watch).requires(READ))
        .with(subscription("stumble", stumble).requires(READ))
}

errors! {
    /// What goes wrong in a library.
    pub(crate) enum BookError {
        /// Somebody has it.
        Taken { title: String } = ErrorCode::declared("TAKEN", 409), "{title} is lent already";
        /// There is no more.
        NoMore = NOT_FOUND, "there are no more";
    }
}

/// Lists the books.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListBooks {}

pub(crate) async fn list(_: &Library, call: Call, _: ListBooks) -> Result<Vec<String>, BookError> {
    call.set_next_cursor("after-dune".to_owned());
    Ok(vec!["Dune".to_owned()])
}

/// Lends a book to the caller.
#[derive(Deserialize, JsonSchema)]
struct Lend {
    title: String,
}

async fn lend(library: &Library, _: Call, input: Lend) -> Result<(), BookError> {
    let mut lent = library.lent.lock().map_err(|_| internal("poisoned"))?;
    if lent.contains(&input.title) {
        return Err(BookError::Taken { title: input.title });
    }
    lent.push(input.title);
    Ok(())
}

/// Burns a book. Nobody from outside may.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Burn {
    title: String,
}

async fn burn(library: &Library, call: Call, input: Burn) -> Result<(), BookError> {
    let who = call
        .identity()
        .map_or("nobody", Identity::subject)
        .to_owned();
    library
        .burnt
        .lock()
        .map_err(|_| internal("poisoned"))?
        .push((input.title, who));
    Ok(())
}

/// Burns one book and tries to lend another, which it did not declare.
#[derive(Deserialize, JsonSchema)]
struct Purge {}

#[derive(Serialize, JsonSchema)]
struct Purged {
    burnt: String,
}

async fn purge(_: &Library, call: Call, _: Purge) -> Result<Purged, BookError> {
    let dune = Burn {
        title: "Dune".to_owned(),
    };
    call.invoke::<_, ()>("books/burn", &dune)
        .await
        .map_err(internal)?;
    let refused = call
        .invoke::<_, ()>("books/lend", &dune)
        .await
        .expect_err("not declared");
    Ok(Purged {
        burnt: format!("{} for books/lend", refused.code().as_str()),
    })
}

/// Copies a book, slowly.
#[derive(Deserialize, JsonSchema)]
struct Copy {}

async fn copy(library: &Library, _: Call, _: Copy) -> Result<(), BookError> {
    library.copying.notify_one();
    library.let_go.notified().await;
    library.copied.notify_one();
    Ok(())
}

/// Trips over the doorstep.
#[derive(Deserialize, JsonSchema)]
struct Trip {}

async fn trip(_: &Library, _: Call, _: Trip) -> Result<(), BookError> {
    panic!("stumbled over a secret")
}

/// Fails with what it did not declare.
#[derive(Deserialize, JsonSchema)]
struct Lie {}

struct Undeclared;

impl From<Undeclared> for CallError {
    fn from(_: Undeclared) -> Self {
        CallError::new(ErrorCode::declared("SECRET_CODE", 418), "surprise")
    }
}

impl OperationError for Undeclared {
    fn declared() -> Vec<ErrorSpec> {
        Vec::new()
    }
}

async fn lie(_: &Library, _: Call, _: Lie) -> Result<(), Undeclared> {
    Err(Undeclared)
}

/// Waits for ever.
#[derive(Deserialize, JsonSchema)]
struct Wait {}

struct TellWhenDropped<'a>(&'a Notify);

impl Drop for TellWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

async fn wait(library: &Library, _: Call, _: Wait) -> Result<(), BookError> {
    let _tell = TellWhenDropped(&library.dropped);
    library.waiting.notify_one();
    std::future::pending().await
}

/// Counts up and then fails.
#[derive(Deserialize, JsonSchema)]
struct Watch {
    upto: u32,
}

async fn watch(_: &Library, _: Call, input: Watch) -> Result<Outputs<u32, BookError>, BookError> {
    let numbers = futures::stream::iter((1..=input.upto).map(Ok));
    let end = futures::stream::iter([Err(BookError::NoMore), Ok(99)]);
    Ok(numbers.chain(end).boxed())
}

/// Streams, and comes to grief.
#[derive(Deserialize, JsonSchema)]
struct Stumble {
    when: When,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum When {
    /// Before the stream begins.
    Before,
    /// After its first output.
    During,
    /// It never begins.
    Never,
    /// It begins and stands still.
    Still,
}

async fn stumble(
    library: &Library,
    _: Call,
    input: Stumble,
) -> Result<Outputs<u32, BookError>, BookError> {
    let first = futures::stream::iter([Ok(1)]);
    match input.when {
        When::Before => panic!("stumbled over a secret"),
        When::During => Ok(first
            .chain(futures::stream::poll_fn(|_| {
                panic!("stumbled over a secret")
            }))
            .boxed()),
        When::Never => {
            let _tell = TellWhenDropped(&library.dropped);
            std::future::pending().await
        }
        When::Still => Ok(first.chain(futures::stream::pending()).boxed()),
    }
}
