//! A small bookshelf to call operations on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use hostler_operations::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub(crate) const READ: Scope = Scope::new("books:read");
pub(crate) const WRITE: Scope = Scope::new("books:write");

/// The state, with signals for tests that must know where a call is.
pub(crate) struct Shelf {
    books: Mutex<Vec<Book>>,
    /// One permit for each nap that began.
    pub(crate) napping: Semaphore,
    /// One permit for each nap that ended before its time.
    pub(crate) disturbed: Semaphore,
    /// How many cups were poured.
    pub(crate) poured: Arc<AtomicUsize>,
    /// One permit for each pouring that nobody wants any more.
    pub(crate) spared: Arc<Semaphore>,
    /// A permit lets one nap end.
    pub(crate) wake: Semaphore,
}

impl Default for Shelf {
    fn default() -> Self {
        let book = |title: &str, pages| Book {
            title: title.into(),
            pages,
            tags: Vec::new(),
        };
        Self {
            books: Mutex::new(vec![
                book("Dune", 412),
                book("Emma", 474),
                book("Ulysses", 730),
            ]),
            napping: Semaphore::new(0),
            disturbed: Semaphore::new(0),
            poured: Arc::default(),
            spared: Arc::new(Semaphore::new(0)),
            wake: Semaphore::new(0),
        }
    }
}

impl Shelf {
    fn books(&self) -> std::sync::MutexGuard<'_, Vec<Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn titles(&self) -> Vec<String> {
        self.books().iter().map(|book| book.title.clone()).collect()
    }
}

pub(crate) fn registry(shelf: &Arc<Shelf>) -> Arc<Registry> {
    let registry = Registry::builder()
        .service(books(), shelf)
        .service(rooms(), shelf)
        .build();
    registry.expect("the definitions agree")
}

fn books() -> Service<Shelf> {
    service("books")
        .with(
            query("list", list)
                .requires(READ)
                .rest(Method::GET, "/v1/books", StatusCode::OK),
        )
        .with(query("get", get).requires(READ).rest(
            Method::GET,
            "/v1/books/{title}",
            StatusCode::OK,
        ))
        .with(mutation("create", create).requires(WRITE).rest(
            Method::POST,
            "/v1/books",
            StatusCode::CREATED,
        ))
        .with(mutation("delete", delete).requires(WRITE).rest(
            Method::DELETE,
            "/v1/books/{title}",
            StatusCode::NO_CONTENT,
        ))
        .with(mutation("lend", lend).requires_any([READ, WRITE]).rest(
            Method::POST,
            "/v1/books/{title}/lend",
            StatusCode::OK,
        ))
        .with(mutation("shred", shred).internal())
        .with(
            subscription("log", log)
                .requires(READ)
                .resumed_by("number")
                .rest(Method::GET, "/v1/books/log", StatusCode::OK),
        )
        .with(subscription("watch", watch).requires(READ).rest(
            Method::GET,
            "/v1/books/watch",
            StatusCode::OK,
        ))
}

fn rooms() -> Service<Shelf> {
    service("rooms")
        .with(
            query("trip", trip)
                .open()
                .rest(Method::GET, "/v1/trip", StatusCode::OK),
        )
        .with(query("nap", nap).open())
        .with(
            query("dawdle", nap)
                .open()
                .timeout(Duration::from_millis(50)),
        )
        .with(
            query("who", who)
                .open()
                .rest(Method::GET, "/v1/who", StatusCode::OK),
        )
        .with(
            mutation("weigh", weigh)
                .open()
                .rest(Method::POST, "/v1/weigh", StatusCode::OK),
        )
        .with(query("print", print).open().rest_text(
            Method::GET,
            "/v1/paper",
            "text/plain; version=1",
        ))
        .with(query("walk", walk).open())
        .with(query("ask-back", ask_back).open())
        .with(subscription("pour", pour).open())
}

errors! {
    /// What goes wrong at a bookshelf.
    pub(crate) enum BookError {
        /// There is such a book already.
        Taken { title: String } = ErrorCode::declared("TAKEN", 409), "{title} is here already";
        /// There is no such book.
        NoSuchBook { title: String } = NOT_FOUND, "there is no book called {title:?}";
        /// All copies are out.
        AllOut = ErrorCode::declared("ALL_OUT", 503).retryable(), "all copies are out; try later";
    }
}

/// A book as the shelf has it.
#[derive(Clone, Serialize, JsonSchema)]
struct Book {
    title: String,
    pages: u32,
    tags: Vec<String>,
}

/// Lists the books.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListBooks {
    /// How many at most.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u16>,
    /// Where to go on.
    #[serde(default)]
    cursor: Option<String>,
    /// Only those with all of these tags.
    #[serde(default)]
    tag: Vec<String>,
}

async fn list(shelf: &Shelf, call: Call, input: ListBooks) -> Result<Vec<Book>, BookError> {
    let after = input.cursor.unwrap_or_default();
    let mut found: Vec<Book> = shelf
        .books()
        .iter()
        .filter(|b| b.title > after && input.tag.iter().all(|tag| b.tags.contains(tag)))
        .cloned()
        .collect();
    let limit = usize::from(input.limit.unwrap_or(100));
    if found.len() > limit {
        found.truncate(limit);
        call.set_next_cursor(found[limit - 1].title.clone());
    }
    Ok(found)
}

/// Shows a book.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetBook {
    /// The title, as it stands on the spine.
    title: String,
}

async fn get(shelf: &Shelf, _: Call, input: GetBook) -> Result<Book, BookError> {
    let book = shelf
        .books()
        .iter()
        .find(|book| book.title == input.title)
        .cloned();
    book.ok_or(BookError::NoSuchBook { title: input.title })
}

/// Puts a book on the shelf.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateBook {
    title: String,
    #[schemars(range(min = 1))]
    pages: u32,
    #[serde(default)]
    tags: Vec<String>,
    /// The shelf remembers nothing, so it says that it saw it.
    #[serde(default)]
    idempotency_key: Option<String>,
}

async fn create(shelf: &Shelf, _: Call, input: CreateBook) -> Result<Book, BookError> {
    let mut books = shelf.books();
    if books.iter().any(|book| book.title == input.title) {
        return Err(BookError::Taken { title: input.title });
    }
    let mut tags = input.tags;
    tags.extend(input.idempotency_key.map(|key| format!("key:{key}")));
    let book = Book {
        title: input.title,
        pages: input.pages,
        tags,
    };
    books.push(book.clone());
    books.sort_by(|a, b| a.title.cmp(&b.title));
    Ok(book)
}

/// Takes a book off the shelf.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteBook {
    title: String,
    /// Even when it is a good one.
    #[serde(default)]
    force: bool,
}

async fn delete(shelf: &Shelf, _: Call, input: DeleteBook) -> Result<(), BookError> {
    let mut books = shelf.books();
    let before = books.len();
    books.retain(|book| book.title != input.title || !input.force);
    match books.len() == before {
        true => Err(BookError::NoSuchBook { title: input.title }),
        false => Ok(()),
    }
}

/// Lends a book, if only there were one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LendBook {
    #[allow(dead_code)]
    title: String,
    /// For how long.
    #[serde(default)]
    #[allow(dead_code)]
    days: Option<u8>,
}

async fn lend(_: &Shelf, _: Call, _: LendBook) -> Result<Book, BookError> {
    Err(BookError::AllOut)
}

/// Shreds a book. Nobody from outside may.
#[derive(Deserialize, JsonSchema)]
struct ShredBook {}

async fn shred(_: &Shelf, _: Call, _: ShredBook) -> Result<(), BookError> {
    Ok(())
}

/// Counts the books as they pass.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WatchBooks {
    /// How many pass.
    #[serde(default)]
    count: u32,
    /// What happens then.
    #[serde(default)]
    then: Then,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Then {
    #[default]
    End,
    Fail,
    Wait,
}

struct TellWhenDropped(Arc<Semaphore>);

impl Drop for TellWhenDropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// One permit for each subscription that was dropped. Shared by all tests, which is enough for
/// one that waits for its own.
pub(crate) static LEFT: std::sync::LazyLock<Arc<Semaphore>> =
    std::sync::LazyLock::new(|| Arc::new(Semaphore::new(0)));

async fn watch(
    _: &Shelf,
    _: Call,
    input: WatchBooks,
) -> Result<Outputs<u32, BookError>, BookError> {
    let passing = futures::stream::iter((1..=input.count).map(Ok));
    Ok(match input.then {
        Then::End => passing.boxed(),
        Then::Fail => passing
            .chain(futures::stream::iter([Err(BookError::AllOut)]))
            .boxed(),
        Then::Wait => {
            let tell = TellWhenDropped(Arc::clone(&LEFT));
            let waiting = futures::stream::poll_fn(move |_| {
                let _held = &tell;
                std::task::Poll::Pending
            });
            passing.chain(waiting).boxed()
        }
    })
}

/// Trips over the doorstep.
#[derive(Deserialize, JsonSchema)]
struct Trip {}

async fn trip(_: &Shelf, _: Call, _: Trip) -> Result<(), BookError> {
    panic!("stumbled over a secret")
}

/// Sleeps until somebody says that it is enough.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nap {}

struct Disturbed<'s>(Option<&'s Shelf>);

impl Drop for Disturbed<'_> {
    fn drop(&mut self) {
        if let Some(shelf) = self.0 {
            shelf.disturbed.add_permits(1);
        }
    }
}

async fn nap(shelf: &Shelf, _: Call, _: Nap) -> Result<&'static str, BookError> {
    let mut disturbed = Disturbed(Some(shelf));
    shelf.napping.add_permits(1);
    shelf.wake.acquire().await.map_err(internal)?.forget();
    disturbed.0 = None;
    Ok("well rested")
}

/// Says who is asking.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Who {}

#[derive(Serialize, JsonSchema)]
struct Caller {
    subject: Option<String>,
    request_id: String,
    remote: Option<String>,
}

async fn who(_: &Shelf, call: Call, _: Who) -> Result<Caller, BookError> {
    Ok(Caller {
        subject: call
            .identity()
            .map(|identity| identity.subject().to_owned()),
        request_id: call.request_id().to_string(),
        remote: call.remote_addr().map(|address| address.ip().to_string()),
    })
}

/// Weighs a text.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Weigh {
    #[serde(default)]
    text: String,
}

async fn weigh(_: &Shelf, _: Call, input: Weigh) -> Result<usize, BookError> {
    Ok(input.text.len())
}

/// Prints a lot of paper.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Print {
    #[schemars(range(max = 64_000_000))]
    bytes: usize,
}

async fn print(_: &Shelf, _: Call, input: Print) -> Result<String, BookError> {
    Ok("#".repeat(input.bytes))
}

/// Walks along the shelf, step by step.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Walk {
    steps: u64,
}

/// Each step waits for a permit to wake.
async fn walk(shelf: &Shelf, call: Call, input: Walk) -> Result<u64, BookError> {
    for step in 1..=input.steps {
        call.progress(step, Some(input.steps), format!("step {step}"));
        shelf.wake.acquire().await.map_err(internal)?.forget();
    }
    Ok(input.steps)
}

/// Asks the caller something in return.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskBack {
    /// Which operation of the caller's, `/service/operation`.
    operation: String,
}

async fn ask_back(_: &Shelf, call: Call, input: AskBack) -> Result<Value, BookError> {
    let nobody = || BookError::NoSuchBook {
        title: "of callers".into(),
    };
    let peer = call.peer().ok_or_else(nobody)?;
    let answered = peer.call(&input.operation, json!({})).await;
    Ok(answered.unwrap_or_else(|error| json!({"code": error.code, "message": error.message})))
}

/// Pours cup after cup, for as long as somebody takes them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pour {
    /// The size of a cup.
    bytes: usize,
    /// How many there are; for ever unless said.
    #[serde(default)]
    cups: Option<usize>,
}

async fn pour(
    shelf: &Shelf,
    _: Call,
    input: Pour,
) -> Result<Outputs<String, BookError>, BookError> {
    let spared = TellWhenDropped(Arc::clone(&shelf.spared));
    let poured = Arc::clone(&shelf.poured);
    let cup = "~".repeat(input.bytes);
    let cups = (0..input.cups.unwrap_or(usize::MAX)).map(move |_| {
        let _held = &spared;
        poured.fetch_add(1, Ordering::Relaxed);
        Ok(cup.clone())
    });
    Ok(futures::stream::iter(cups).boxed())
}

/// Tells what happened at the shelf, in order: ten things, and then it waits for more.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadLog {}

#[derive(Serialize, JsonSchema)]
struct Entry {
    number: u64,
    what: String,
}

async fn log(_: &Shelf, call: Call, _: ReadLog) -> Result<Outputs<Entry, BookError>, BookError> {
    let first = call
        .resume_after()
        .map_or(11, |seen| seen.saturating_add(1));
    let entries = (first.max(11)..=20).map(|number| {
        Ok(Entry {
            number,
            what: format!("thing {number}"),
        })
    });
    let tell = TellWhenDropped(Arc::clone(&LEFT_LOG));
    let more = futures::stream::poll_fn(move |_| {
        let _held = &tell;
        std::task::Poll::Pending
    });
    Ok(futures::stream::iter(entries).chain(more).boxed())
}

/// One permit for each reader of a log that was dropped.
pub(crate) static LEFT_LOG: std::sync::LazyLock<Arc<Semaphore>> =
    std::sync::LazyLock::new(|| Arc::new(Semaphore::new(0)));
