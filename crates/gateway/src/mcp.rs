//! The Model Context Protocol: operations as tools for AI agents, at `POST /mcp`.
//!
//! Every external operation that is no subscription is a tool for whoever may call it, described by
//! the schemas and the doc comments by which everybody else is told of it. A request comes in as
//! one POST and is answered by one JSON object, or, when the call takes longer or reports its
//! progress, by an event stream that ends with the same object.
//!
//! Nothing is kept between requests. The revision 2026-07-28 wants it so; for the older ones, which
//! shake hands, the handshake is answered and then forgotten ([`revision`]). The one thing that
//! requests share is the list of calls under way ([`running`]), so that one may be cancelled.
//!
//! Who calls is asked before the body is read. A caller without a token learns only that one is
//! needed.

mod admission;
mod message;
mod revision;
mod running;
mod stream;
mod tools;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hostler_operations::{Identity, ProgressSource, Registry, Request, RequestId, progress};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, request};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use self::admission::Foreign;
use crate::answer::{self, Failure};
use crate::body::BodyError;
use crate::openapi::About;
use crate::sse;
use message::{Id, Message, RpcError};
use revision::Era;
use running::Running;

/// How long a call may take before its answer becomes a stream.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a client may take its list of tools for fresh. Its scopes may change meanwhile; a call
/// is judged by what they are then.
const FRESH_MS: u32 = 60_000;

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// What an adapter offers to agents, and to whom; see
/// [`HttpAdapterBuilder::mcp`](crate::HttpAdapterBuilder::mcp).
#[derive(Clone, Debug, Default)]
pub struct Mcp {
    hosts: Vec<String>,
    origins: Vec<String>,
    instructions: Option<String>,
}

impl Mcp {
    /// Answers requests whose `Host` is one of these names or addresses, whatever the port, and no
    /// others: a page that made a name of its own lead here (DNS rebinding) is refused.
    pub fn new<N: AsRef<str>>(hosts: impl IntoIterator<Item = N>) -> Self {
        let hosts = hosts.into_iter().map(|host| admission::bare(host.as_ref()));
        Self {
            hosts: hosts.collect(),
            ..Self::default()
        }
    }

    /// Lets pages of this origin (`https://app.example.org`) call, beside those of the door itself.
    /// Programs that are no browsers send no origin and are not asked for one.
    #[must_use]
    pub fn origin(mut self, origin: &url::Url) -> Self {
        self.origins.push(origin.origin().ascii_serialization());
        self
    }

    /// What an agent should know before it begins.
    #[must_use]
    pub fn instructions(mut self, text: impl Into<String>) -> Self {
        self.instructions = Some(text.into());
        self
    }
}

/// The endpoint, ready to answer.
pub(crate) struct Endpoint {
    config: Mcp,
    registry: Arc<Registry>,
    about: About,
    running: Arc<Running>,
}

/// Who sent a request, and under which id.
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) request_id: RequestId,
    pub(crate) remote: Option<SocketAddr>,
}

/// An answer, and which operation it called, for the log.
pub(crate) struct Answered {
    pub(crate) response: Response,
    pub(crate) operation: Option<String>,
}

impl From<Response> for Answered {
    fn from(response: Response) -> Self {
        Self {
            response,
            operation: None,
        }
    }
}

impl Endpoint {
    pub(crate) fn new(config: Mcp, registry: Arc<Registry>, about: About) -> Self {
        Self {
            config,
            registry,
            about,
            running: Arc::default(),
        }
    }

    /// Whether the request may come from where it says it does. Asked before anything else.
    pub(crate) fn admit(&self, head: &request::Parts) -> Result<(), Foreign> {
        admission::check(&self.config, head)
    }

    /// Answers one POST.
    pub(crate) async fn answer(
        &self,
        headers: &HeaderMap,
        content: Result<Option<Value>, BodyError>,
        caller: Caller,
    ) -> Result<Answered, Failure> {
        let message = match content {
            Ok(Some(content)) => Message::read(content),
            Ok(None) => Err(RpcError::not_json("the body is empty")),
            Err(BodyError::NotJson(error)) => Err(RpcError::not_json(error)),
            Err(error) => return Err(Failure::body(&error)),
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => return Ok(error.into_response(None).into()),
        };
        let era = match revision::era(headers, &message) {
            Ok(era) => era,
            Err(error) => return Ok(error.into_response(message.id()).into()),
        };
        Ok(match message {
            Message::Request { id, method, params } => {
                let asked = Asked {
                    era,
                    id,
                    params,
                    headers,
                    caller,
                };
                self.request(&method, asked).await
            }
            Message::Notification { method, params } => {
                if method == "notifications/cancelled" {
                    self.running.cancel(&caller, headers, &params);
                }
                accepted().into()
            }
        })
    }

    async fn request(&self, method: &str, asked: Asked<'_>) -> Answered {
        match (asked.era, method) {
            (Era::Sessions, "initialize") => self.initialize(&asked).into(),
            (Era::Sessions, "ping") => asked.result(Map::new()).into(),
            (Era::Stateless, "server/discover") => self.discover(&asked).into(),
            (_, "tools/list") => self.list(&asked).into(),
            (_, "tools/call") => self.call(asked).await,
            (era, _) => RpcError::no_such_method(method, era)
                .into_response(Some(&asked.id))
                .into(),
        }
    }

    /// Answers the handshake of the older revisions. The session that it names is only a name: it
    /// keeps the ids of one client's calls apart from another's.
    fn initialize(&self, asked: &Asked<'_>) -> Response {
        let wanted = asked.params.get("protocolVersion").and_then(Value::as_str);
        let mut result = self.introduction();
        let version = revision::agreed(wanted);
        result.insert("protocolVersion".to_owned(), version.into());
        result.insert("serverInfo".to_owned(), self.server_info());
        let mut response = asked.result(result);
        if let Ok(session) = HeaderValue::from_str(RequestId::generate().as_str()) {
            response.headers_mut().insert(SESSION_ID, session);
        }
        response
    }

    fn discover(&self, asked: &Asked<'_>) -> Response {
        let mut result = self.introduction();
        result.insert("supportedVersions".to_owned(), json!([revision::STATELESS]));
        private(&mut result);
        asked.result_of(self, result)
    }

    fn introduction(&self) -> Map<String, Value> {
        let mut result = Map::new();
        // The tools of a caller change only with its scopes or with the program, and nobody is told.
        result.insert("capabilities".to_owned(), json!({ "tools": {} }));
        if let Some(text) = &self.config.instructions {
            result.insert("instructions".to_owned(), text.clone().into());
        }
        result
    }

    fn server_info(&self) -> Value {
        json!({ "name": self.about.title, "version": self.about.version })
    }

    fn list(&self, asked: &Asked<'_>) -> Response {
        if asked.params.get("cursor").is_some_and(|c| !c.is_null()) {
            let error = RpcError::invalid_params("there is no such page; the list has only one");
            return error.into_response(Some(&asked.id));
        }
        let tools = tools::list(&self.registry, &asked.caller.identity);
        let mut result = Map::new();
        result.insert("tools".to_owned(), tools);
        if asked.era == Era::Stateless {
            private(&mut result);
        }
        asked.result_of(self, result)
    }

    async fn call(&self, mut asked: Asked<'_>) -> Answered {
        let tool = match tools::Called::read(&self.registry, &mut asked) {
            Ok(tool) => tool,
            Err(error) => return error.into_response(Some(&asked.id)).into(),
        };
        let operation = Some(tool.name().to_owned());
        let token = asked.progress_token();
        let (sink, source) = progress();
        let source = token.is_some().then_some(source);
        let (headers, patient) = (asked.headers, sse::accepts(asked.headers));
        let answering = self.carry_out(tool, asked, source.is_some().then_some(sink), headers);
        let response = if patient {
            stream::soon_or_streamed(answering, token.zip(source), PATIENCE).await
        } else {
            answer::json(StatusCode::OK, &answering.await)
        };
        Answered {
            response,
            operation,
        }
    }

    /// Calls the operation; what comes out is the whole JSON-RPC response. Dropping it cancels.
    fn carry_out(
        &self,
        tool: tools::Called,
        asked: Asked<'_>,
        progress: Option<hostler_operations::ProgressSink>,
        headers: &HeaderMap,
    ) -> BoxFuture<'static, Value> {
        let cancelled = CancellationToken::new();
        let listed = self
            .running
            .enter(&asked.caller, headers, &asked.id, &cancelled);
        let registry = Arc::clone(&self.registry);
        let server = (asked.era == Era::Stateless).then(|| self.server_info());
        let Asked {
            era, id, caller, ..
        } = asked;
        async move {
            let _listed = listed;
            let request_id = caller.request_id.clone();
            let request = Request {
                input: tool.input,
                identity: Some(caller.identity),
                remote: caller.remote,
                cancelled: cancelled.clone(),
                progress,
                ..Request::new(caller.request_id)
            };
            let reply = tokio::select! {
                biased;
                // What was begun and may not stay half done runs on; nobody waits for it.
                () = cancelled.cancelled() => {
                    return RpcError::cancelled().into_value(Some(&id));
                }
                reply = registry.invoke(tool.operation.name().as_str(), request) => reply,
            };
            let result = match reply {
                Ok(reply) => tools::success(&tool.operation, reply),
                Err(error) => tools::failure(&error, &request_id),
            };
            message::result(era, &id, result, server)
        }
        .boxed()
    }
}

/// A request that was understood.
struct Asked<'h> {
    era: Era,
    id: Id,
    params: Map<String, Value>,
    headers: &'h HeaderMap,
    caller: Caller,
}

impl Asked<'_> {
    fn result(&self, result: Map<String, Value>) -> Response {
        let value = message::result(self.era, &self.id, result, None);
        answer::json(StatusCode::OK, &value)
    }

    fn result_of(&self, endpoint: &Endpoint, result: Map<String, Value>) -> Response {
        let server = (self.era == Era::Stateless).then(|| endpoint.server_info());
        let value = message::result(self.era, &self.id, result, server);
        answer::json(StatusCode::OK, &value)
    }

    /// Under which token the client wants to hear of progress.
    fn progress_token(&self) -> Option<Value> {
        let token = self.params.get("_meta")?.get("progressToken")?;
        (token.is_string() || token.is_i64() || token.is_u64()).then(|| token.clone())
    }
}

/// A token and what is to be told under it.
type Reporting = (Value, ProgressSource);

/// What depends on the caller is kept by nobody who serves others.
fn private(result: &mut Map<String, Value>) {
    result.insert("ttlMs".to_owned(), FRESH_MS.into());
    result.insert("cacheScope".to_owned(), "private".into());
}

fn accepted() -> Response {
    let mut response = answer::no_content();
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
