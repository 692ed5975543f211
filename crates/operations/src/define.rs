//! The definition of operations: one readable block beside the handlers.
//!
//! [`query`], [`mutation`] and [`subscription`] take a name and a handler and leave one question
//! open, who may call; only its answer ([`requires`](Undecided::requires),
//! [`requires_any`](Undecided::requires_any), [`open`](Undecided::open),
//! [`internal`](Undecided::internal)) makes an [`Operation`] that a [`Service`] takes. So nothing
//! is reachable because somebody forgot to say.

use std::borrow::Cow;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt};
use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::access::{Access, Grants, Identity, Scope};
use crate::call::Call;
use crate::declare::{ErrorSpec, OperationError};
use crate::error::CallError;
use crate::schema::{input_schema, output_schema};

/// How long a call may take when its definition says nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What kind of thing an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Answers and changes nothing.
    Query,
    /// Changes something.
    Mutation,
    /// Answers with a stream of outputs.
    Subscription,
}

/// A REST route of an operation: `POST /v1/hosts` answering 201.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestBinding {
    /// The method.
    pub method: Method,
    /// The path; `{field}` takes one segment into that field of the input.
    pub path: String,
    /// The status of a success. 204 sends no body.
    pub success: StatusCode,
    /// The media type under which a success is sent as the text that it is; `None`: as JSON.
    pub text: Option<&'static str>,
}

impl RestBinding {
    /// The input fields that the path holds, in order.
    pub fn path_fields(&self) -> impl Iterator<Item = &str> {
        self.path
            .split('/')
            .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// An async function `(&State, Call, Input) -> Result<Output, Error>`, as the definitions take it.
///
/// It is implemented for every such function; nobody needs to write it.
pub trait Handler<'a, S: 'a, I, R>: Send + Sync + 'static {
    /// What the function returns.
    type Future: Future<Output = R> + Send + 'a;
    /// Calls the function.
    fn call(&self, state: &'a S, call: Call, input: I) -> Self::Future;
}

impl<'a, S, I, R, F, Fut> Handler<'a, S, I, R> for F
where
    S: 'a,
    F: Fn(&'a S, Call, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = R> + Send + 'a,
{
    type Future = Fut;

    fn call(&self, state: &'a S, call: Call, input: I) -> Fut {
        self(state, call, input)
    }
}

/// The outputs of a subscription, as a handler returns them.
pub type Outputs<O, E> = BoxStream<'static, Result<O, E>>;

pub(crate) type ErasedStream = BoxStream<'static, Result<Value, CallError>>;
type Once<S> =
    dyn Fn(Arc<S>, Call, Value) -> BoxFuture<'static, Result<Value, CallError>> + Send + Sync;
type Many<S> = dyn Fn(Arc<S>, Call, Value) -> BoxFuture<'static, Result<ErasedStream, CallError>>
    + Send
    + Sync;

pub(crate) enum ErasedHandler<S> {
    Once(Box<Once<S>>),
    Many(Box<Many<S>>),
}

/// Everything about an operation but its handler and its service.
pub(crate) struct Definition {
    pub(crate) operation: Cow<'static, str>,
    /// Whether its errors are those of another API (`HTTP_…`), which no list can hold.
    pub(crate) foreign: bool,
    pub(crate) kind: Kind,
    pub(crate) description: String,
    pub(crate) internal: bool,
    pub(crate) access: Access,
    pub(crate) rest: Vec<RestBinding>,
    pub(crate) timeout: Duration,
    pub(crate) idempotent: bool,
    pub(crate) resumed_by: Option<&'static str>,
    pub(crate) authority: Option<(Vec<Scope>, Vec<&'static str>)>,
    pub(crate) input: Schema,
    pub(crate) output: Schema,
    pub(crate) errors: Vec<ErrorSpec>,
}

/// An operation of which it is not yet said who may call it.
#[must_use = "an operation is not complete before it says who may call it"]
pub struct Undecided<S>(pub(crate) Operation<S>);

/// A complete operation on a state of type `S`, to be added to a [`Service`].
#[must_use = "an operation does nothing before a service has it"]
pub struct Operation<S> {
    pub(crate) definition: Definition,
    pub(crate) handler: ErasedHandler<S>,
}

/// An operation that has no side effect. Its description is the doc comment of its input type.
pub fn query<S, I, O, E, H>(name: &'static str, handler: H) -> Undecided<S>
where
    S: Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
    E: OperationError,
    H: for<'a> Handler<'a, S, I, Result<O, E>>,
{
    once(Kind::Query, name, handler)
}

/// An operation that changes something. Its description is the doc comment of its input type.
pub fn mutation<S, I, O, E, H>(name: &'static str, handler: H) -> Undecided<S>
where
    S: Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
    E: OperationError,
    H: for<'a> Handler<'a, S, I, Result<O, E>>,
{
    once(Kind::Mutation, name, handler)
}

/// An operation that answers with a stream. Its description is the doc comment of its input type.
pub fn subscription<S, I, O, E, H>(name: &'static str, handler: H) -> Undecided<S>
where
    S: Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
    E: OperationError,
    H: for<'a> Handler<'a, S, I, Result<Outputs<O, E>, E>>,
{
    let handler = Arc::new(handler);
    let erased = move |state: Arc<S>, call: Call, input: Value| -> BoxFuture<'static, _> {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let input = parse(input)?;
            let outputs = handler
                .call(&state, call, input)
                .await
                .map_err(Into::into)?;
            Ok(erase_outputs(outputs))
        })
    };
    undecided::<S, I, O, E>(
        Kind::Subscription,
        name,
        ErasedHandler::Many(Box::new(erased)),
    )
}

fn erase_outputs<O, E>(outputs: impl Stream<Item = Result<O, E>> + Send + 'static) -> ErasedStream
where
    O: Serialize + 'static,
    E: OperationError,
{
    Box::pin(outputs.map(|item| {
        let output: O = item.map_err(Into::into)?;
        serde_json::to_value(output).map_err(CallError::internal)
    }))
}

fn once<S, I, O, E, H>(kind: Kind, name: &'static str, handler: H) -> Undecided<S>
where
    S: Send + Sync + 'static,
    I: DeserializeOwned + JsonSchema + Send + 'static,
    O: Serialize + JsonSchema + Send + 'static,
    E: OperationError,
    H: for<'a> Handler<'a, S, I, Result<O, E>>,
{
    let handler = Arc::new(handler);
    let erased = move |state: Arc<S>, call: Call, input: Value| -> BoxFuture<'static, _> {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let input = parse(input)?;
            let output = handler
                .call(&state, call, input)
                .await
                .map_err(Into::into)?;
            serde_json::to_value(output).map_err(CallError::internal)
        })
    };
    undecided::<S, I, O, E>(kind, name, ErasedHandler::Once(Box::new(erased)))
}

/// What the schema let through and the type does not is the caller's mistake too: a name whose
/// pattern the type checks, two fields that exclude each other.
fn parse<I: DeserializeOwned>(mut input: Value) -> Result<I, CallError> {
    whole_numbers(&mut input);
    serde_json::from_value(input).map_err(|error| CallError::invalid_input(error.to_string()))
}

/// To JSON Schema `3.0` is an integer (draft 2020-12, validation, section 6.1.1), and some programs
/// write integers so; to a type of Rust's it is none.
fn whole_numbers(value: &mut Value) {
    /// Up to here every integer has a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            let double = number.as_f64().unwrap_or(f64::NAN);
            if double.fract() == 0.0 && double.abs() < EXACT {
                *number = (double as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

fn undecided<S, I: JsonSchema, O: JsonSchema, E: OperationError>(
    kind: Kind,
    operation: &'static str,
    handler: ErasedHandler<S>,
) -> Undecided<S> {
    let input = input_schema::<I>();
    let description = input
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let definition = Definition {
        operation: Cow::Borrowed(operation),
        foreign: false,
        kind,
        description: description.to_owned(),
        internal: false,
        access: Access::Open,
        rest: Vec::new(),
        timeout: DEFAULT_TIMEOUT,
        idempotent: false,
        resumed_by: None,
        authority: None,
        input,
        output: output_schema::<O>(),
        errors: E::declared(),
    };
    Undecided(Operation {
        definition,
        handler,
    })
}

impl<S> Undecided<S> {
    /// Only a caller with this scope.
    pub fn requires(self, scope: Scope) -> Operation<S> {
        self.requires_all([scope])
    }

    /// Only a caller with every one of these scopes.
    pub fn requires_all(self, scopes: impl IntoIterator<Item = Scope>) -> Operation<S> {
        self.accessible(Access::AllOf(scopes.into_iter().collect()))
    }

    /// Only a caller with at least one of these scopes.
    pub fn requires_any(self, scopes: impl IntoIterator<Item = Scope>) -> Operation<S> {
        self.accessible(Access::AnyOf(scopes.into_iter().collect()))
    }

    /// Anyone, known or not: the input itself is the proof, or nothing needs proving.
    pub fn open(self) -> Operation<S> {
        self.accessible(Access::Open)
    }

    /// Nobody from outside, where it does not exist; only operations that
    /// [compose](Operation::composes) it.
    pub fn internal(mut self) -> Operation<S> {
        self.0.definition.internal = true;
        self.0
    }

    fn accessible(mut self, access: Access) -> Operation<S> {
        self.0.definition.access = access;
        self.0
    }
}

impl<S> Operation<S> {
    /// Gives it a REST route: `.rest(Method::POST, "/v1/hosts", StatusCode::CREATED)`. Path
    /// segments in braces, query parameters and the JSON body together make the input.
    pub fn rest(mut self, method: Method, path: &str, success: StatusCode) -> Self {
        self.definition.rest.push(RestBinding {
            method,
            path: path.to_owned(),
            success,
            text: None,
        });
        self
    }

    /// Gives it a REST route that answers with text of this media type, for programs that expect
    /// another form than JSON there. The output must be a string; on the operation's own path it is
    /// a JSON string as ever.
    pub fn rest_text(mut self, method: Method, path: &str, media_type: &'static str) -> Self {
        self = self.rest(method, path, StatusCode::OK);
        if let Some(rest) = self.definition.rest.last_mut() {
            rest.text = Some(media_type);
        }
        self
    }

    /// How long a call may take before its caller reads `TIMEOUT`; [`DEFAULT_TIMEOUT`] unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.definition.timeout = timeout;
        self
    }

    /// Says that calling it again with the same input changes nothing more. Clients may repeat it
    /// when they do not know whether it was done.
    pub fn idempotent(mut self) -> Self {
        self.definition.idempotent = true;
        self
    }

    /// Says that this subscription can go on where a caller lost it. `field` is the field of its
    /// outputs that numbers them, upwards and for good; the handler finds the number that the
    /// caller saw last in [`Call::resume_after`].
    pub fn resumed_by(mut self, field: &'static str) -> Self {
        self.definition.resumed_by = Some(field);
        self
    }

    /// Lets the handler call these operations, holding these scopes whoever called it.
    pub fn composes(
        mut self,
        scopes: impl IntoIterator<Item = Scope>,
        operations: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let reach = (
            scopes.into_iter().collect(),
            operations.into_iter().collect(),
        );
        self.definition.authority = Some(reach);
        self
    }
}

impl Definition {
    /// The identity in whose name the handler composes.
    pub(crate) fn composing_identity(&self, service: &str) -> Option<Identity> {
        let (scopes, _) = self.authority.as_ref()?;
        let subject = format!("operation:{service}/{}", self.operation);
        Some(Identity::new(
            subject,
            scopes.iter().cloned().collect::<Grants>(),
        ))
    }
}

/// A group of operations on one kind of state.
pub struct Service<S> {
    pub(crate) name: Cow<'static, str>,
    pub(crate) operations: Vec<Operation<S>>,
    state: PhantomData<fn(S)>,
}

/// Begins a service: its name is the first half of its operations' names.
pub fn service<S>(name: impl Into<Cow<'static, str>>) -> Service<S> {
    Service {
        name: name.into(),
        operations: Vec::new(),
        state: PhantomData,
    }
}

impl<S: Send + Sync + 'static> Service<S> {
    /// Adds an operation.
    #[must_use]
    pub fn with(mut self, operation: Operation<S>) -> Self {
        self.operations.push(operation);
        self
    }
}
