//! The five calls of the Workload API, each behind the same questions: does the caller mean us,
//! who is it, and who is that here?

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::info;

use super::attest::{AttestError, Caller};
use super::connection::OpenedBy;
use super::entries::{Entries, Entry};
use super::follow::{Updates, follow};
use super::identities::Identities;
use super::issuer::{Issuer, IssuerError};
use super::proto::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use super::{jwt, x509};
use crate::keys::Bundles;

/// What every request carries, so that a web page or a redirect cannot be made to send one.
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// Looking at callers is file work. When a thousand streams wake together, they take turns
/// instead of a thousand threads.
const LOOKING_AT_ONCE: usize = 4;

/// Behind the calls: everything that they share.
#[derive(Debug)]
pub(super) struct Desk<I> {
    pub(super) identities: Identities<I>,
    pub(super) entries: watch::Receiver<Entries>,
    pub(super) bundles: watch::Receiver<Bundles>,
    pub(super) stopping: CancellationToken,
    looking: Arc<Semaphore>,
}

/// The calls, as they come from the wire.
#[derive(Debug)]
pub(super) struct Service<I>(Arc<Desk<I>>);

impl<I: Issuer> Service<I> {
    pub(super) fn new(
        issuer: I,
        entries: watch::Receiver<Entries>,
        stopping: CancellationToken,
    ) -> Self {
        let bundles = issuer.bundles();
        Self(Arc::new(Desk {
            identities: Identities::new(issuer),
            entries,
            bundles,
            stopping,
            looking: Arc::new(Semaphore::new(LOOKING_AT_ONCE)),
        }))
    }
}

impl<I: Issuer> Desk<I> {
    /// The entries that the caller matches, at least one; or why it has none.
    pub(super) async fn entitled(
        &self,
        opened_by: &OpenedBy,
        entries: Entries,
    ) -> Result<Vec<Entry>, Status> {
        if !entries.are_known() {
            return Err(Status::unavailable(
                "the registration entries have not come yet; try again",
            ));
        }
        let turn = Arc::clone(&self.looking).acquire_owned().await;
        let opened_by = Arc::clone(opened_by);
        let looked_at = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            look(&opened_by, &entries)
        });
        match looked_at.await {
            Ok(Ok((_, matching))) if !matching.is_empty() => Ok(matching),
            Ok(Ok((caller, _))) => {
                info!(%caller, "a process without a registration entry has asked who it is");
                // Not with SPIRE's words, "no identity issued": clients know them and put their own
                // text in the place of ours.
                Err(Status::permission_denied(format!(
                    "no registration entry matches this process ({caller}); have one registered \
                     for it"
                )))
            }
            Ok(Err(reason)) => {
                info!(%reason, "a process could not be attested");
                Err(Status::permission_denied(reason.to_string()))
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// The same, for a call that is answered once.
    pub(super) async fn entitled_now(&self, opened_by: &OpenedBy) -> Result<Vec<Entry>, Status> {
        if self.entries.has_changed().is_err() {
            return Err(nobody_keeps_entries());
        }
        let entries = self.entries.borrow().clone();
        self.entitled(opened_by, entries).await
    }
}

/// The caller as it is now, and its entries.
fn look(opened_by: &OpenedBy, entries: &Entries) -> Result<(Caller, Vec<Entry>), AttestError> {
    let peer = opened_by.as_ref().as_ref().map_err(|error| *error)?;
    let mut caller = peer.attest()?;
    if entries.iter().any(|entry| entry.turns_on_digest(&caller)) {
        caller = caller.with_digest(peer.digest()?);
    }
    let matching = entries.iter().filter(|entry| entry.matches(&caller));
    let matching = matching.cloned().collect();
    Ok((caller, matching))
}

/// Whoever sent this request, if it is meant for a Workload API.
fn opened_by<T>(request: &Request<T>) -> Result<OpenedBy, Status> {
    let header = request.metadata().get(SECURITY_HEADER);
    if header.is_none_or(|value| value != "true") {
        return Err(Status::invalid_argument(format!(
            "the metadata {SECURITY_HEADER}: true is missing; use a SPIFFE Workload API client"
        )));
    }
    let opened_by = request.extensions().get::<OpenedBy>();
    opened_by
        .cloned()
        .ok_or_else(|| Status::internal("the connection does not say who opened it"))
}

pub(super) fn nobody_keeps_entries() -> Status {
    Status::unavailable("the registration entries are gone; the agent is stopping")
}

pub(super) fn status(error: IssuerError) -> Status {
    match error {
        IssuerError::Refused(_) => Status::permission_denied(error.to_string()),
        IssuerError::Unavailable(_) => Status::unavailable(error.to_string()),
    }
}

#[tonic::async_trait]
impl<I: Issuer> SpiffeWorkloadApi for Service<I> {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        follow::<x509::Svids, I>(&self.0, opened_by(&request)?).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        follow::<x509::Roots, I>(&self.0, opened_by(&request)?).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let entries = self.0.entitled_now(&opened_by(&request)?).await?;
        let svids = jwt::svids(&self.0, entries, request.into_inner()).await?;
        Ok(Response::new(svids))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        follow::<jwt::Keys, I>(&self.0, opened_by(&request)?).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.0.entitled_now(&opened_by(&request)?).await?;
        let bundles = self.0.bundles.borrow().clone();
        jwt::validate(&request.into_inner(), &bundles).map(Response::new)
    }
}
