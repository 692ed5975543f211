//! The registry: every operation of a program, and the one way into each of them.
//!
//! It is built once, from services bound to their state (`build`); whatever is contradictory in a
//! definition is an error then and not on the day somebody calls. Afterwards [`Registry::invoke`]
//! and [`Registry::subscribe`] take each request the same way, whichever door it came in by
//! (`invoke`).

mod build;
mod invoke;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use schemars::Schema;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Identity};
use crate::call::{Authority, Call, RequestId};
use crate::declare::ErrorSpec;
use crate::define::{Definition, ErasedStream, Kind, RestBinding};
use crate::error::CallError;
use crate::name::OperationName;
use crate::peer::Peer;
use crate::progress::ProgressSink;
use crate::schema::InputCheck;

pub use build::{DefinitionError, RegistryBuilder};

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

    /// Whether calling it again with the same input changes nothing more. Every query is so.
    pub fn is_idempotent(&self) -> bool {
        self.definition.idempotent || self.kind() == Kind::Query
    }

    /// The field that numbers the outputs of a subscription that can be resumed.
    pub fn resumed_by(&self) -> Option<&'static str> {
        self.definition.resumed_by
    }

    /// The errors that it declares.
    pub fn errors(&self) -> &[ErrorSpec] {
        &self.definition.errors
    }
}

/// Every operation of a program.
pub struct Registry {
    operations: BTreeMap<OperationName, Arc<Registered>>,
    itself: Weak<Registry>,
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
    /// The number of the last output that the caller of a subscription has seen already.
    pub resume_after: Option<u64>,
    /// Where the handler's progress goes, when somebody asks for it.
    pub progress: Option<ProgressSink>,
    /// Who calls, when they can be called back.
    pub peer: Option<Arc<dyn Peer>>,
}

impl Default for Request {
    fn default() -> Self {
        Self::new(RequestId::generate())
    }
}

impl Request {
    /// An anonymous call without input, under this id.
    pub fn new(request_id: RequestId) -> Self {
        Self {
            input: Value::Object(serde_json::Map::new()),
            identity: None,
            request_id,
            remote: None,
            cancelled: CancellationToken::new(),
            resume_after: None,
            progress: None,
            peer: None,
        }
    }
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
}
