//! The walk of one request: path, caller, access, body, input, call, answer.
//!
//! The order is a promise. Who may not call an operation is told so before a byte of the body is
//! read, and learns nothing about its input.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use futures::future::{BoxFuture, FutureExt as _, Map};
use hostler_operations::{CallError, Identity, Kind, Registry, Reply, Request, RequestId};
use http::header::{HeaderName, LINK};
use http::{Method, StatusCode, request};
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Failure};
use crate::body::{Incoming, LINGER, LINGER_A_LITTLE};
use crate::budget::Budget;
use crate::connection::ConnectionInfo;
use crate::credentials::{AuthError, Credentials, IdentityProvider};
use crate::decoy;
use crate::envelope::{Envelope, Facts};
use crate::health::{self, Health};
use crate::input;
use crate::limits::RequestLimits;
use crate::mcp;
use crate::openapi;
use crate::paging::Page;
use crate::rates::Rates;
use crate::recheck;
use crate::route::{Found, Table};
use crate::sse;
use crate::target::{Further, Route, Target};

/// Everything that answering needs, shared by all requests.
pub(crate) struct Dispatch {
    pub(crate) registry: Arc<Registry>,
    pub(crate) provider: Arc<dyn IdentityProvider>,
    pub(crate) credential_headers: Vec<HeaderName>,
    pub(crate) table: Table<Arc<Target>>,
    pub(crate) decoy: decoy::Ready,
    pub(crate) health: Box<dyn Health>,
    pub(crate) limits: RequestLimits,
    pub(crate) budget: Budget,
    pub(crate) about: openapi::About,
    pub(crate) rates: Arc<Rates>,
}

/// A request on its way.
struct Visit<'r> {
    head: &'r request::Parts,
    connection: Option<&'r ConnectionInfo>,
    body: &'r mut Incoming,
    request_id: &'r RequestId,
    identity: &'r mut Option<Identity>,
    /// For the log, when the target alone does not say it.
    operation: &'r mut Option<String>,
}

/// What says who sends a request.
struct Caller<'r> {
    head: &'r request::Parts,
    connection: Option<&'r ConnectionInfo>,
    request_id: &'r RequestId,
}

impl<'r> Visit<'r> {
    fn caller(&self) -> Caller<'r> {
        Caller {
            head: self.head,
            connection: self.connection,
            request_id: self.request_id,
        }
    }
}

/// Why a subscription does not begin.
enum Refused {
    Call(CallError),
    Auth(AuthError),
}

impl Dispatch {
    /// Answers a request, with all that surrounds an answer. What the answer needs is put into one
    /// box, and not moved from one future into the next.
    pub(crate) fn serve(
        self: Arc<Self>,
        head: request::Parts,
        body: Body,
        connection: Option<ConnectionInfo>,
    ) -> BoxFuture<'static, Response> {
        let envelope = Envelope::new(&head.method, &head.headers, connection);
        Box::pin(async move {
            let body = Incoming::new(body, &head);
            let (response, facts) = match self.rates.turn_away(envelope.connection()) {
                Some(refusal) => {
                    body.linger(LINGER_A_LITTLE);
                    (refusal, Facts::default())
                }
                None => self.answer(&head, body, &envelope).await,
            };
            envelope.seal(response, facts)
        })
    }

    async fn answer(
        &self,
        head: &request::Parts,
        mut body: Incoming,
        envelope: &Envelope,
    ) -> (Response, Facts) {
        let mut facts = Facts::default();
        let connection = envelope.connection();
        let response = match self.table.find(&head.method, head.uri.path()) {
            Found::Nothing => self.decoy.answer(&head.method, &head.uri).await,
            Found::OtherMethods(target, methods) => {
                facts.target = Some(Arc::clone(target));
                Failure::method(&methods).into_response(target.surface(), envelope.id())
            }
            Found::Target(target, values) => {
                facts.target = Some(Arc::clone(target));
                let visit = Visit {
                    head,
                    connection,
                    body: &mut body,
                    request_id: envelope.id(),
                    identity: &mut facts.identity,
                    operation: &mut facts.operation,
                };
                let answered = match target.as_ref() {
                    Target::Health => Ok(self.health(connection).await),
                    Target::Docs(file) => Ok(file.answer()),
                    Target::Further(further) => self.reach(visit, further, values).await,
                };
                answered.unwrap_or_else(|failure| {
                    failure.into_response(target.surface(), envelope.id())
                })
            }
        };
        body.linger(LINGER);
        (response, facts)
    }

    /// Boxed, what is large costs only those who take that way: a future is moved whole. And boxed
    /// in a function that is not `async`: one that is keeps room for what it has moved into a box.
    fn reach<'r>(
        &'r self,
        visit: Visit<'r>,
        further: &'r Further,
        values: Vec<Cow<'r, str>>,
    ) -> BoxFuture<'r, Result<Response, Failure>> {
        match further {
            Further::Document => Box::pin(self.document(visit)),
            Further::Mcp(endpoint) => Box::pin(self.mcp(visit, endpoint)),
            Further::Operation(route) => Box::pin(self.operate(visit, route, values)),
        }
    }

    async fn health(&self, connection: Option<&ConnectionInfo>) -> Response {
        let closing = connection.map(ConnectionInfo::closing);
        if closing.is_some_and(CancellationToken::is_cancelled) {
            answer::text(StatusCode::SERVICE_UNAVAILABLE, "draining")
        } else if health::check(self.health.as_ref()).await {
            answer::text(StatusCode::OK, "ok")
        } else {
            answer::text(StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
        }
    }

    async fn document(&self, visit: Visit<'_>) -> Result<Response, Failure> {
        let identity = self.identify(visit.caller()).await?;
        *visit.identity = identity.clone();
        let document = openapi::document(
            &self.registry,
            identity.as_ref(),
            &self.about,
            &self.credential_headers,
        );
        Ok(answer::json(StatusCode::OK, &document))
    }

    async fn mcp(&self, visit: Visit<'_>, endpoint: &mcp::Endpoint) -> Result<Response, Failure> {
        let admitted = endpoint.admit(visit.head);
        admitted.map_err(|foreign| Failure::elsewhere(foreign.0))?;
        *visit.identity = self.identify(visit.caller()).await?;
        let Visit {
            head,
            connection,
            body,
            request_id,
            identity,
            operation,
        } = visit;
        let caller = mcp::Caller {
            identity: identity.clone().ok_or_else(Failure::unauthenticated)?,
            request_id: request_id.clone(),
            remote: connection.map(ConnectionInfo::remote),
        };
        let content = body.json(&head.headers, &self.limits, &self.budget).await;
        let answered = endpoint.answer(&head.headers, content, caller).await?;
        *operation = answered.operation;
        Ok(answered.response)
    }

    async fn operate(
        &self,
        visit: Visit<'_>,
        route: &Route,
        values: Vec<Cow<'_, str>>,
    ) -> Result<Response, Failure> {
        *visit.identity = self.identify(visit.caller()).await?;
        let Visit {
            head,
            connection,
            body,
            request_id,
            identity,
            ..
        } = visit;
        let known = identity.is_some();
        let failed = |error: CallError| Failure::call(&error, route.surface, known);
        if let Err(denied) = route.operation.access().check(identity.as_ref()) {
            return Err(match known {
                false => Failure::unauthenticated(),
                true => failed(CallError::forbidden(denied.to_string())),
            });
        }
        let subscribes = route.operation.kind() == Kind::Subscription;
        if subscribes && !sse::accepts(&head.headers) {
            return Err(Failure::only_events());
        }

        let has_body = ![Method::GET, Method::HEAD].contains(&head.method);
        let content = if has_body {
            body.json(&head.headers, &self.limits, &self.budget).await
        } else {
            body.nothing(&self.limits, &self.budget)
                .await
                .map(|()| None)
        };
        let content = content.map_err(|error| Failure::body(&error))?;
        let fields = route.fields.iter().map(String::as_str).zip(values);
        let input = input::from_headers(&route.plan, &head.headers)
            .and_then(|named| {
                let named = fields.chain(named);
                input::merge(&route.plan, named, head.uri.query(), content)
            })
            .map_err(|error| Failure::input(&error, route.surface))?;
        let page = route
            .pages
            .then(|| Page::new(head.uri.path(), &route.fields, &input));

        let request = Request {
            input,
            identity: identity.clone(),
            remote: connection.map(ConnectionInfo::remote),
            resume_after: route
                .operation
                .resumed_by()
                .and_then(|_| sse::last_event_id(&head.headers)),
            ..Request::new(request_id.clone())
        };
        if subscribes {
            let events = self.subscribe(head, connection, route, request);
            return events.await.map_err(|refused| match refused {
                Refused::Call(error) => failed(error),
                Refused::Auth(error) => Failure::auth(error),
            });
        }
        let name = route.operation.name().as_str();
        let reply = self.registry.invoke(name, request).await.map_err(failed)?;
        Ok(success(route, &reply, page))
    }

    /// Begins a stream of events. Boxed as the ways in [`reach`](Self::reach) are.
    fn subscribe<'r>(
        &'r self,
        head: &'r request::Parts,
        connection: Option<&'r ConnectionInfo>,
        route: &'r Route,
        request: Request,
    ) -> BoxFuture<'r, Result<Response, Refused>> {
        Box::pin(async move {
            let outputs = self
                .registry
                .subscribe(route.operation.name().as_str(), request);
            let outputs = outputs.await.map_err(Refused::Call)?;
            let outputs = recheck::while_permitted(
                outputs,
                recheck::Holder {
                    provider: Arc::clone(&self.provider),
                    credentials: self.credentials(head, connection).map_err(Refused::Auth)?,
                    access: route.operation.access().clone(),
                },
                recheck::RECHECK,
            );
            let closing = connection.map_or_else(CancellationToken::new, |c| c.closing().clone());
            Ok(sse::respond(
                outputs,
                route.surface,
                route.operation.resumed_by(),
                sse::KEEP_ALIVE,
                closing,
            ))
        })
    }

    fn credentials(
        &self,
        head: &request::Parts,
        connection: Option<&ConnectionInfo>,
    ) -> Result<Credentials, AuthError> {
        Credentials::gather(&head.headers, &self.credential_headers, connection)
    }

    /// Asks anew for each request, so that what was revoked is revoked at once.
    async fn identify(&self, caller: Caller<'_>) -> Result<Option<Identity>, Failure> {
        let resolved = async {
            let credentials = self.credentials(caller.head, caller.connection)?;
            let identity = self.provider.resolve(&credentials).await?;
            if let Some(identity) = &identity {
                self.rates.caller(identity, &credentials)?;
            }
            Ok(identity)
        };
        resolved.await.map_err(|error| {
            if let AuthError::Unavailable(cause) = &error {
                let request_id = caller.request_id;
                tracing::error!(%request_id, cause, "credentials cannot be checked");
            }
            Failure::auth(error)
        })
    }
}

fn success(route: &Route, reply: &Reply, page: Option<Page>) -> Response {
    let mut response = match (route.success, route.text, reply.output.as_str()) {
        (StatusCode::NO_CONTENT, _, _) => answer::no_content(),
        (status, Some(media_type), Some(text)) => {
            answer::typed(status, media_type, text.to_owned())
        }
        (status, _, _) => answer::json(status, &reply.output),
    };
    let next = reply.next_cursor.as_deref().zip(page);
    if let Some(link) = next.and_then(|(cursor, page)| page.next(cursor)) {
        response.headers_mut().insert(LINK, link);
    }
    response
}

/// The dispatch as a tower service, for a router.
#[derive(Clone)]
pub(crate) struct DispatchService(pub(crate) Arc<Dispatch>);

impl tower::Service<http::Request<Body>> for DispatchService {
    type Response = Response;
    type Error = Infallible;
    type Future = Map<BoxFuture<'static, Response>, fn(Response) -> Result<Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let connection = request.extensions().get().cloned();
        let (head, body) = request.into_parts();
        Arc::clone(&self.0).serve(head, body, connection).map(Ok)
    }
}
