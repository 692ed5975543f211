//! The HTTP adapter: a registry of operations as an axum router.

use std::sync::Arc;

use axum::{Router, middleware};
use hostler_operations::Registry;
use http::HeaderName;

use crate::budget::Budget;
use crate::calls::CallAdapter;
use crate::credentials::IdentityProvider;
use crate::decoy::{Decoy, SiteError};
use crate::dispatch::{Dispatch, DispatchService};
use crate::envelope;
use crate::health::Health;
use crate::limits::RequestLimits;
use crate::mcp::{self, Mcp};
use crate::openapi::About;
use crate::rates::Rates;
use crate::route::RouteError;
use crate::target;

/// Serves the operations of a registry over HTTP, whichever transport brings the requests.
///
/// Built once. Where there are routes beside the operations, its [`router`](HttpAdapter::router) is
/// cloned for each connection, which costs a reference count.
#[derive(Clone)]
pub struct HttpAdapter {
    router: Router,
    /// The same without a router around it, when there are no routes beside the operations.
    alone: Option<Arc<Dispatch>>,
    calls: CallAdapter,
}

/// Collects what an [`HttpAdapter`] needs. Everything but the registry and the provider has a
/// default.
#[must_use = "an adapter is made by build()"]
pub struct HttpAdapterBuilder {
    registry: Arc<Registry>,
    provider: Arc<dyn IdentityProvider>,
    credential_headers: Vec<HeaderName>,
    decoy: Decoy,
    health: Box<dyn Health>,
    limits: RequestLimits,
    about: About,
    beside: Option<Router>,
    mcp: Option<Mcp>,
}

/// Why there is no adapter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// Two operations claim one path, or a path is none.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The decoy's site cannot be served.
    #[error(transparent)]
    Decoy(#[from] SiteError),
}

impl HttpAdapter {
    /// Begins an adapter for these operations, whose callers this provider knows.
    pub fn builder(
        registry: Arc<Registry>,
        provider: Arc<dyn IdentityProvider>,
    ) -> HttpAdapterBuilder {
        HttpAdapterBuilder {
            registry,
            provider,
            credential_headers: Vec::new(),
            decoy: Decoy::default(),
            health: Box::new(|| true),
            limits: RequestLimits::default(),
            about: About::default(),
            beside: None,
            mcp: None,
        }
    }

    /// The router, for any server. A [`Door`](crate::Door) takes the adapter itself, and asks it
    /// without the detour through a router.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// What answers every request, when that is this alone.
    pub(crate) fn alone(&self) -> Option<Arc<Dispatch>> {
        self.alone.clone()
    }

    /// The same operations over the call protocol, for [`Door::with_calls`](crate::Door::with_calls).
    pub fn calls(&self) -> CallAdapter {
        self.calls.clone()
    }
}

impl HttpAdapterBuilder {
    /// A header whose value the provider reads as a credential, such as `x-host-token`.
    pub fn credential_header(mut self, name: HeaderName) -> Self {
        self.credential_headers.push(name);
        self
    }

    /// What unknown paths answer; a plain 404 page unless said.
    pub fn decoy(mut self, decoy: Decoy) -> Self {
        self.decoy = decoy;
        self
    }

    /// What `/healthz` asks; always healthy unless said.
    pub fn health(mut self, health: impl Health) -> Self {
        self.health = Box::new(health);
        self
    }

    /// What a request may take.
    pub fn limits(mut self, limits: RequestLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The title and the version (semver) of the API, for its OpenAPI document.
    pub fn about(mut self, title: impl Into<String>, version: impl Into<String>) -> Self {
        self.about = About {
            title: title.into(),
            version: version.into(),
        };
        self
    }

    /// Serves these routes too. They go before the operations and get a request id and a line in
    /// the access log, but no access control: they are for what is no operation, such as a trust
    /// bundle or a dashboard's files.
    pub fn beside(mut self, routes: Router) -> Self {
        self.beside = Some(routes);
        self
    }

    /// Offers the operations as tools to AI agents, at `POST /mcp`; not offered unless said.
    pub fn mcp(mut self, mcp: Mcp) -> Self {
        self.mcp = Some(mcp);
        self
    }

    /// Makes the adapter.
    ///
    /// # Errors
    /// [`AdapterError`] when two operations claim one path or the decoy's site cannot be opened.
    pub fn build(self) -> Result<HttpAdapter, AdapterError> {
        let mcp = self.mcp.map(|config| {
            mcp::Endpoint::new(config, Arc::clone(&self.registry), self.about.clone())
        });
        let rates = Arc::new(Rates::new(&self.limits));
        let calls = CallAdapter::new(
            Arc::clone(&self.registry),
            Arc::clone(&self.provider),
            self.credential_headers.clone(),
            self.limits.clone(),
            Arc::clone(&rates),
        );
        let dispatch = Arc::new(Dispatch {
            table: target::table(&self.registry, mcp)?,
            registry: self.registry,
            provider: self.provider,
            credential_headers: self.credential_headers,
            decoy: self.decoy.prepare()?,
            health: self.health,
            budget: Budget::new(self.limits.bodies_total_bytes),
            limits: self.limits,
            about: self.about,
            rates: Arc::clone(&rates),
        });
        let alone = self.beside.is_none().then(|| Arc::clone(&dispatch));
        let router = self
            .beside
            .unwrap_or_default()
            .layer(middleware::from_fn_with_state(rates, envelope::wrap))
            .fallback_service(DispatchService(dispatch));
        Ok(HttpAdapter {
            router,
            alone,
            calls,
        })
    }
}
