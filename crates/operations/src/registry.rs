//! The registry: every operation of a program, and the one way into each of them.
//!
//! It is built once, from services bound to their state; whatever is contradictory in a definition
//! is an error then and not on the day somebody calls. Afterwards [`Registry::invoke`] takes each
//! request the same way, whichever door it came in by: does the operation exist for this caller,
//! may they call it, does the input fit; then the handler, in a task of its own, so that a panic is
//! an `INTERNAL` and not a lost connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use schemars::Schema;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Denied, Identity};
use crate::call::{Authority, Call, Reply, RequestId, RequestParts};
use crate::define::{Definition, ErasedHandler, ErasedStream, Kind, RestBinding, Service};
use crate::error::{CallError, ErrorSpec, FORBIDDEN, INTERNAL, TIMEOUT};
use crate::name::{NameError, OperationName};
use crate::schema::InputCheck;

/// One registered operation, for those who route to it or describe it.
pub struct Registered {
    name: OperationName,
    definition: Definition,
    authority: Option<Arc<Authority>>,
    check: InputCheck,
    handler: BoundHandler,
}

type Bound<T> = Box<dyn Fn(Call, Value) -> BoxFuture<'static, Result<T, CallError>> + Send + Sync>;

enum BoundHandler {
    Once(Bound<Value>),
    Many(Bound<ErasedStream>),
}

impl Registered {
    /// Its name.
    pub fn name(&self) -> &OperationName {
        &self.name
    }

    /// What kind of thing it does.
    pub fn kind(&self) -> Kind {
        self.definition.kind
    }

    /// What it does, in words: the doc comment of its input type.
    pub fn description(&self) -> &str {
        &self.definition.description
    }

    /// What it asks of its caller.
    pub fn access(&self) -> &Access {
        &self.definition.access
    }

    /// Its REST routes.
    pub fn rest(&self) -> &[RestBinding] {
        &self.definition.rest
    }

    /// The schema of its input.
    pub fn input_schema(&self) -> &Schema {
        &self.definition.input
    }

    /// The schema of its output; of each output when it is a subscription.
    pub fn output_schema(&self) -> &Schema {
        &self.definition.output
    }

    /// The errors that it declares.
    pub fn errors(&self) -> &[ErrorSpec] {
        &self.definition.errors
    }
}

/// Why definitions do not make a registry. Each is a mistake in the program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// A service or an operation has no proper name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two operations have one name.
    #[error("the operation {0} is defined twice")]
    Duplicate(OperationName),
    /// Two operations have one REST route.
    #[error("{route} leads to both {first} and {second}")]
    Route {
        /// Method and path.
        route: String,
        /// The operation that was there first.
        first: OperationName,
        /// The one that came after.
        second: OperationName,
    },
    /// A path has a field in braces that the input does not have.
    #[error("{operation}: the path {path} has the field {field:?}, its input has not")]
    PathField {
        /// The operation.
        operation: OperationName,
        /// Its path.
        path: String,
        /// The field.
        field: String,
    },
    /// An operation that does not exist outside has a REST route.
    #[error("{0} is internal and has a REST route")]
    InternalRoute(OperationName),
    /// An operation composes one that does not exist.
    #[error("{operation} composes {unknown:?}, which is not registered")]
    Composes {
        /// The operation.
        operation: OperationName,
        /// What it names.
        unknown: String,
    },
    /// An operation has nothing to say about itself.
    #[error("{0} has no description: write a doc comment on its input type")]
    Undescribed(OperationName),
    /// A schema does not compile.
    #[error("the input schema of {operation} is not valid: {problem}")]
    Schema {
        /// The operation.
        operation: OperationName,
        /// What the validator says.
        problem: String,
    },
}

/// Every operation of a program.
pub struct Registry {
    operations: BTreeMap<OperationName, Arc<Registered>>,
    itself: Weak<Registry>,
}

/// Collects services until [`RegistryBuilder::build`] checks them.
#[derive(Default)]
pub struct RegistryBuilder {
    operations: Vec<Result<Registered, DefinitionError>>,
}

/// One request for one operation, from outside. The default is an anonymous call without input.
pub struct Request {
    /// The input, as JSON.
    pub input: Value,
    /// Who calls.
    pub identity: Option<Identity>,
    /// Under which id.
    pub request_id: RequestId,
    /// From where.
    pub remote: Option<SocketAddr>,
    /// Cancelled when nobody waits for the answer any more.
    pub cancelled: CancellationToken,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            input: Value::Object(serde_json::Map::new()),
            identity: None,
            request_id: RequestId::generate(),
            remote: None,
            cancelled: CancellationToken::new(),
        }
    }
}

impl RegistryBuilder {
    /// Adds a service, bound to the state that its handlers work on.
    #[must_use]
    pub fn service<S: Send + Sync + 'static>(
        mut self,
        service: Service<S>,
        state: &Arc<S>,
    ) -> Self {
        for operation in service.operations {
            let registered = register(service.name, operation.definition, operation.handler, state);
            self.operations.push(registered);
        }
        self
    }

    /// Checks all definitions and makes the registry, with `services/list` and `services/schema`
    /// added to it.
    ///
    /// # Errors
    /// [`DefinitionError`], the first contradiction found.
    pub fn build(self) -> Result<Arc<Registry>, DefinitionError> {
        let this = self.service(crate::discovery::operations(), &Arc::new(()));
        let mut operations = BTreeMap::new();
        let mut routes: BTreeMap<String, OperationName> = BTreeMap::new();
        for registered in this.operations {
            let registered = registered?;
            check_routes(&registered, &mut routes)?;
            let name = registered.name.clone();
            if operations
                .insert(name.clone(), Arc::new(registered))
                .is_some()
            {
                return Err(DefinitionError::Duplicate(name));
            }
        }
        for registered in operations.values() {
            let reachable = registered.authority.iter().flat_map(|a| &a.reachable);
            if let Some(unknown) = reachable.into_iter().find(|n| !operations.contains_key(*n)) {
                return Err(DefinitionError::Composes {
                    operation: registered.name.clone(),
                    unknown: unknown.to_string(),
                });
            }
        }
        Ok(Arc::new_cyclic(|itself| Registry {
            operations,
            itself: itself.clone(),
        }))
    }
}

fn register<S: Send + Sync + 'static>(
    service: &str,
    definition: Definition,
    handler: ErasedHandler<S>,
    state: &Arc<S>,
) -> Result<Registered, DefinitionError> {
    let name = OperationName::new(service, definition.operation)?;
    if definition.description.is_empty() {
        return Err(DefinitionError::Undescribed(name));
    }
    if definition.internal && !definition.rest.is_empty() {
        return Err(DefinitionError::InternalRoute(name));
    }
    let check = InputCheck::new(&definition.input).map_err(|problem| DefinitionError::Schema {
        operation: name.clone(),
        problem,
    })?;
    let authority = match (
        &definition.authority,
        definition.composing_identity(service),
    ) {
        (Some((_, operations)), Some(identity)) => {
            let reachable = operations
                .iter()
                .map(|o| o.parse())
                .collect::<Result<_, _>>()?;
            Some(Arc::new(Authority {
                identity,
                reachable,
            }))
        }
        _ => None,
    };
    let state = Arc::clone(state);
    let handler = match handler {
        ErasedHandler::Once(f) => BoundHandler::Once(Box::new(move |call, input| {
            f(Arc::clone(&state), call, input)
        })),
        ErasedHandler::Many(f) => BoundHandler::Many(Box::new(move |call, input| {
            f(Arc::clone(&state), call, input)
        })),
    };
    Ok(Registered {
        name,
        definition,
        authority,
        check,
        handler,
    })
}

fn check_routes(
    registered: &Registered,
    routes: &mut BTreeMap<String, OperationName>,
) -> Result<(), DefinitionError> {
    let name = &registered.name;
    for rest in registered.rest() {
        let properties = registered
            .input_schema()
            .get("properties")
            .and_then(Value::as_object);
        for field in rest.path_fields() {
            if !properties.is_some_and(|p| p.contains_key(field)) {
                return Err(DefinitionError::PathField {
                    operation: name.clone(),
                    path: rest.path.clone(),
                    field: field.to_owned(),
                });
            }
        }
        // Two templates that differ only in the names of their fields are one route.
        let shape: Vec<&str> = rest
            .path
            .split('/')
            .map(|segment| {
                if segment.starts_with('{') {
                    "{}"
                } else {
                    segment
                }
            })
            .collect();
        let route = format!("{} {}", rest.method, shape.join("/"));
        if let Some(first) = routes.insert(route.clone(), name.clone()) {
            return Err(DefinitionError::Route {
                route,
                first,
                second: name.clone(),
            });
        }
    }
    Ok(())
}

impl Registry {
    /// Begins a registry.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }

    /// Every operation that exists from outside, by name.
    pub fn external(&self) -> impl Iterator<Item = &Arc<Registered>> {
        self.operations
            .values()
            .filter(|operation| !operation.definition.internal)
    }

    /// The external operation of this name, `service/operation`.
    pub fn find(&self, name: &str) -> Option<&Arc<Registered>> {
        self.operations
            .get(name)
            .filter(|operation| !operation.definition.internal)
    }

    /// Calls an operation from outside and waits for its answer.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is no such external operation or it is a subscription, `FORBIDDEN`,
    /// `INVALID_INPUT`, `TIMEOUT`, `INTERNAL`, or an error that the operation declares.
    pub async fn invoke(&self, name: &str, request: Request) -> Result<Reply, CallError> {
        let operation = self.find(name).cloned().ok_or_else(|| unknown(name))?;
        let (input, parts) = request.into_parts();
        self.run(operation, input, parts).await
    }

    /// Calls one operation from the handler of another: internal ones exist here too.
    pub(crate) async fn invoke_composed(
        &self,
        name: &str,
        input: Value,
        parts: RequestParts,
    ) -> Result<Reply, CallError> {
        let operation = self
            .operations
            .get(name)
            .cloned()
            .ok_or_else(|| unknown(name))?;
        self.run(operation, input, parts).await
    }

    /// Subscribes from outside. The stream ends with its first error; dropping it cancels the call.
    ///
    /// # Errors
    /// As [`Registry::invoke`]; `NOT_FOUND` for an operation that is no subscription.
    pub async fn subscribe(
        &self,
        name: &str,
        request: Request,
    ) -> Result<impl futures::Stream<Item = Result<Value, CallError>> + Send + use<>, CallError>
    {
        let operation = self.find(name).cloned().ok_or_else(|| unknown(name))?;
        let (input, parts) = request.into_parts();
        let guard = parts.cancelled.clone().drop_guard();
        let call = self.admit(&operation, &input, parts)?;
        let BoundHandler::Many(handler) = &operation.handler else {
            return Err(unknown(name));
        };
        let started = handler(call.clone(), input).await;
        let outputs = started.map_err(|error| operation.settle(error, &call))?;
        let mut failed = false;
        Ok(outputs
            .map(move |item| {
                let _held_until_the_stream_ends = &guard;
                item.map_err(|error| operation.settle(error, &call))
            })
            .take_while(move |item| {
                let go_on = !failed;
                failed = item.is_err();
                std::future::ready(go_on)
            }))
    }

    /// Access and schema, in this order: who may not call learns nothing of the input's form.
    fn admit(
        &self,
        operation: &Registered,
        input: &Value,
        parts: RequestParts,
    ) -> Result<Call, CallError> {
        operation
            .access()
            .check(parts.identity.as_ref())
            .map_err(denied)?;
        operation.check.check(input)?;
        let authority = operation.authority.clone();
        Ok(Call::new(
            operation.name.clone(),
            parts,
            authority,
            self.itself.clone(),
        ))
    }

    async fn run(
        &self,
        operation: Arc<Registered>,
        input: Value,
        parts: RequestParts,
    ) -> Result<Reply, CallError> {
        let cancelled = parts.cancelled.clone();
        let call = self.admit(&operation, &input, parts)?;
        let BoundHandler::Once(handler) = &operation.handler else {
            return Err(unknown(operation.name.as_str()));
        };
        // Dropping this future (the caller went away) or leaving it early cancels the call.
        let _guard = cancelled.clone().drop_guard();
        let handling = handler(call.clone(), input);
        // A task of its own: a panic ends here, and a mutation whose caller went away runs to its
        // end instead of stopping at whichever await it had reached.
        let task = match operation.kind() {
            Kind::Query => tokio::spawn(async move {
                tokio::select! {
                    answer = handling => answer,
                    () = cancelled.cancelled() => Err(CallError::new(INTERNAL, "cancelled")),
                }
            }),
            _ => tokio::spawn(handling),
        };
        let answer = match tokio::time::timeout(operation.definition.timeout, task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(broken)) => Err(CallError::internal(broken)),
            Err(_elapsed) => Err(timed_out(operation.definition.timeout)),
        };
        match answer {
            Ok(output) => Ok(Reply {
                output,
                next_cursor: call.take_next_cursor(),
            }),
            Err(error) => Err(operation.settle(error, &call)),
        }
    }
}

impl Registered {
    /// Lets a declared error pass and makes anything else `INTERNAL`; logs what the caller is not
    /// told.
    fn settle(&self, error: CallError, call: &Call) -> CallError {
        let declared = error.code().is_protocol()
            || self
                .definition
                .errors
                .iter()
                .any(|spec| spec.code.as_str() == error.code().as_str());
        let error = if declared {
            error
        } else {
            CallError::internal(format!(
                "undeclared error {}: {error}",
                error.code().as_str()
            ))
        };
        if let Some(cause) = error.cause() {
            tracing::error!(operation = %self.name, request_id = %call.request_id(), cause, "failed");
        }
        error
    }
}

fn unknown(name: &str) -> CallError {
    CallError::not_found(format!("there is no operation {name:?} to call"))
}

fn denied(denied: Denied) -> CallError {
    CallError::new(FORBIDDEN, denied.to_string())
}

fn timed_out(limit: Duration) -> CallError {
    CallError::new(
        TIMEOUT,
        format!("no answer within {} s; try again", limit.as_secs_f32()),
    )
}
