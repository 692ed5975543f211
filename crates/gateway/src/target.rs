//! What a path can lead to.

use std::sync::Arc;

use hostler_operations::{Kind, Method, Registered, Registry, StatusCode};

use crate::answer::Surface;
use crate::docs;
use crate::input::Plan;
use crate::mcp;
use crate::paging::pages;
use crate::route::{RouteError, Table};

pub(crate) const HEALTH: &str = "/healthz";
pub(crate) const MCP: &str = "/mcp";
pub(crate) const DOCUMENT: &str = "/openapi.json";

/// A target of the path table.
pub(crate) enum Target {
    /// `/healthz`.
    Health,
    /// A file of `/docs`.
    Docs(docs::File),
    Further(Further),
}

/// What has to know who asks.
pub(crate) enum Further {
    /// An operation, on one of its paths.
    Operation(Route),
    /// `/openapi.json`.
    Document,
    /// `/mcp`.
    Mcp(mcp::Endpoint),
}

/// One path of an operation.
pub(crate) struct Route {
    pub(crate) operation: Arc<Registered>,
    pub(crate) surface: Surface,
    pub(crate) success: StatusCode,
    /// The media type under which an output that is a string is sent as text.
    pub(crate) text: Option<&'static str>,
    pub(crate) template: String,
    /// The input fields that the path holds, in order.
    pub(crate) fields: Vec<String>,
    pub(crate) plan: Arc<Plan>,
    /// Whether it is a list in pages.
    pub(crate) pages: bool,
}

impl Target {
    /// The path template, for the log.
    pub(crate) fn template(&self) -> &str {
        match self {
            Self::Health => HEALTH,
            Self::Docs(file) => file.path,
            Self::Further(Further::Operation(route)) => &route.template,
            Self::Further(Further::Document) => DOCUMENT,
            Self::Further(Further::Mcp(_)) => MCP,
        }
    }

    /// The operation's name, for the log.
    pub(crate) fn operation(&self) -> Option<&str> {
        self.route().map(|route| route.operation.name().as_str())
    }

    /// In which form its failures are told.
    pub(crate) fn surface(&self) -> Surface {
        self.route()
            .map_or(Surface::Operation, |route| route.surface)
    }

    fn route(&self) -> Option<&Route> {
        match self {
            Self::Further(Further::Operation(route)) => Some(route),
            _ => None,
        }
    }
}

/// The methods under which an operation's own path is served, and the first is the document's.
pub(crate) fn operation_methods(kind: Kind) -> &'static [Method] {
    match kind {
        Kind::Query => &[Method::POST, Method::GET],
        // A browser's EventSource can only GET; input that should be in no URL goes in a body.
        Kind::Subscription => &[Method::GET, Method::POST],
        _ => &[Method::POST],
    }
}

fn operation_at(route: Route) -> Target {
    Target::Further(Further::Operation(route))
}

/// Every path of every external operation, and those that are no operation's.
pub(crate) fn table(
    registry: &Registry,
    mcp: Option<mcp::Endpoint>,
) -> Result<Table<Arc<Target>>, RouteError> {
    let mut table = Table::new();
    table.insert(Method::GET, HEALTH, Arc::new(Target::Health))?;
    table.insert(
        Method::GET,
        DOCUMENT,
        Arc::new(Target::Further(Further::Document)),
    )?;
    for file in docs::FILES {
        table.insert(Method::GET, file.path, Arc::new(Target::Docs(file)))?;
    }
    if let Some(endpoint) = mcp {
        let target = Target::Further(Further::Mcp(endpoint));
        table.insert(Method::POST, MCP, Arc::new(target))?;
    }
    for operation in registry.external() {
        let plan = Arc::new(Plan::new(operation.input_schema()));
        let pages = pages(operation);
        let path = operation.name().path();
        let target = Arc::new(operation_at(Route {
            operation: Arc::clone(operation),
            surface: Surface::Operation,
            success: StatusCode::OK,
            text: None,
            template: path.clone(),
            fields: Vec::new(),
            plan: Arc::clone(&plan),
            pages,
        }));
        for method in operation_methods(operation.kind()) {
            table.insert(method.clone(), &path, Arc::clone(&target))?;
        }
        for rest in operation.rest() {
            let route = Route {
                operation: Arc::clone(operation),
                surface: Surface::Rest,
                success: rest.success,
                text: rest.text,
                template: rest.path.clone(),
                fields: rest.path_fields().map(str::to_owned).collect(),
                plan: Arc::clone(&plan),
                pages,
            };
            let target = Arc::new(operation_at(route));
            table.insert(rest.method.clone(), &rest.path, target)?;
        }
    }
    Ok(table)
}
