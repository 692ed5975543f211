//! An identity from the SPIFFE Workload API: SPIRE's agent, or anything else that speaks it.
//!
//! The `spiffe` crate keeps the stream to the agent, reconnects, and parses. What it accepts gets
//! our stricter look (see `rules`) in a [`WorkloadStream`]; one small task carries that into our
//! [`Source`], and `hostler svid write` into files.

mod choice;
mod error;
mod jwt;

use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::SecretString;
use spiffe::{WorkloadApiClient, X509Source};
use tracing::{info, warn};

use crate::bundle::TrustBundles;
use crate::endpoint::WorkloadEndpoint;
use crate::pem;
use crate::source::{Source, SourceClosed, SourceWriter};
use crate::svid::Svid;
pub use choice::{SvidChoice, SvidName};
pub use error::{MaterialError, WorkloadApiFailure};
pub use jwt::WorkloadJwt;

/// How long the agent may take for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

impl Source {
    /// The identity that the Workload API at `endpoint` (`unix:///path` or `tcp://IP:PORT`) gives
    /// to this process; renewed as the agent renews it, withdrawn as the agent withdraws it.
    ///
    /// Asks once before it settles down to listen, so that a wrong address or a missing entry is
    /// an error at once instead of a wait. While the agent is away later, the identity stays until
    /// it expires. A background task ends with the last clone of the source.
    pub async fn workload_api(endpoint: &str) -> Result<Self, WorkloadApiFailure> {
        Self::workload_api_choosing(endpoint, SvidChoice::Default).await
    }

    /// [`workload_api`](Self::workload_api) for a process that is given several identities. When
    /// the chosen one is not among them any more, it is withdrawn; another one never takes its
    /// place.
    pub async fn workload_api_choosing(
        endpoint: &str,
        choice: SvidChoice,
    ) -> Result<Self, WorkloadApiFailure> {
        let stream = WorkloadStream::open_choosing(endpoint, choice).await?;
        let first = stream.current().map_err(|source| stream.unusable(source))?;
        let (source, writer) = Self::memory(first.svid, first.bundles);
        tokio::spawn(follow(stream, writer));
        Ok(source)
    }

    /// [`workload_api`](Self::workload_api) at the address in `SPIFFE_ENDPOINT_SOCKET`.
    pub async fn workload_api_from_env() -> Result<Self, WorkloadApiFailure> {
        let endpoint = WorkloadEndpoint::from_env().map_err(WorkloadApiFailure::Environment)?;
        Self::workload_api(&endpoint.to_string()).await
    }
}

/// Carries every accepted state of the stream into the source, until nobody uses the source or
/// the stream has ended for good. Dropping the writer then closes the source.
async fn follow(mut stream: WorkloadStream, writer: SourceWriter) {
    loop {
        tokio::select! {
            () = writer.unused() => return,
            change = stream.changed() => if change.is_err() { return },
        }
        match stream.current() {
            Ok(WorkloadSvid { svid, bundles, .. }) => {
                info!(id = %svid.id(), expires_at = %svid.not_after(), "identity renewed");
                writer.replace(svid, bundles);
            }
            Err(reason) => {
                warn!(%reason, "identity withdrawn: the Workload API's answer cannot be used");
                writer.withdraw();
            }
        }
    }
}

/// What a Workload API says about this process, message by message, keys included: for whoever
/// hands an identity on, as `hostler svid write` does. To *use* an identity, take a
/// [`Source`](Source::workload_api).
#[derive(Debug)]
pub struct WorkloadStream {
    endpoint: String,
    stream: X509Source,
    updates: spiffe::x509_source::X509SourceUpdates,
}

/// One answer of a Workload API: the identity that was chosen, and the roots of every trust domain.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkloadSvid {
    /// The identity.
    pub svid: Svid,
    /// The word by which the Workload API tells it from the others, if there is one.
    pub hint: Option<String>,
    /// Its private key: PKCS#8, PEM. Keep it in a file of mode 0600.
    pub key_pem: SecretString,
    /// The roots, by trust domain.
    pub bundles: TrustBundles,
}

impl WorkloadStream {
    /// Asks the Workload API at `endpoint` who this process is, and stays connected. It answers
    /// within ten seconds, or this fails.
    pub async fn open(endpoint: &str) -> Result<Self, WorkloadApiFailure> {
        Self::open_choosing(endpoint, SvidChoice::Default).await
    }

    /// [`open`](Self::open) for a process that is given several identities.
    pub async fn open_choosing(
        endpoint: &str,
        choice: SvidChoice,
    ) -> Result<Self, WorkloadApiFailure> {
        in_time(endpoint, ask_and_listen(endpoint, choice)).await
    }

    /// The names of all identities that this process was given last, the default one first.
    #[must_use]
    pub fn given(&self) -> Vec<SvidName> {
        let context = self.stream.x509_context();
        context.map_or_else(|_| Vec::new(), |context| choice::names(context.svids()))
    }

    /// What was said last. An error means that it says nothing usable (any more): what was given
    /// earlier is withdrawn.
    pub fn current(&self) -> Result<WorkloadSvid, MaterialError> {
        let state = self.stream.state();
        let (svid, context) = (state.svid()?, state.context()?);
        let chain = svid
            .cert_chain()
            .iter()
            .map(|cert| CertificateDer::from(cert.as_bytes().to_vec()));
        let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec());
        let key_pem = pem::private_key(&key);
        let hint = svid.hint().map(str::to_owned);
        let svid = Svid::from_der(chain.collect(), PrivateKeyDer::Pkcs8(key))?;
        let mut bundles = TrustBundles::new();
        for (trust_domain, bundle) in context.bundle_set().iter() {
            let roots = bundle.authorities().iter();
            let roots = roots
                .map(|cert| CertificateDer::from(cert.as_bytes().to_vec()))
                .collect();
            bundles.insert(trust_domain.clone(), roots)?;
        }
        Ok(WorkloadSvid {
            svid,
            hint,
            key_pem,
            bundles,
        })
    }

    /// Waits until something else is said. Reconnects by itself for as long as it takes; an agent
    /// that is away says nothing.
    pub async fn changed(&mut self) -> Result<(), SourceClosed> {
        self.updates.changed().await.map_err(|_| SourceClosed)?;
        Ok(())
    }

    /// The failure to report when the answer cannot be used.
    pub(crate) fn unusable(&self, source: MaterialError) -> WorkloadApiFailure {
        WorkloadApiFailure::Unusable {
            endpoint: self.endpoint.clone(),
            source,
        }
    }
}

/// The first answer, or that there is none.
async fn in_time<T>(
    endpoint: &str,
    answer: impl Future<Output = Result<T, WorkloadApiFailure>>,
) -> Result<T, WorkloadApiFailure> {
    match tokio::time::timeout(FIRST_ANSWER, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(WorkloadApiFailure::Silent {
            endpoint: endpoint.to_owned(),
        }),
    }
}

/// The endpoint as clients write it.
fn checked(endpoint: &str) -> Result<String, WorkloadApiFailure> {
    let checked = endpoint.parse::<WorkloadEndpoint>();
    let checked = checked.map_err(|source| WorkloadApiFailure::Endpoint {
        endpoint: endpoint.to_owned(),
        source,
    })?;
    Ok(checked.to_string())
}

async fn ask_and_listen(
    endpoint: &str,
    choice: SvidChoice,
) -> Result<WorkloadStream, WorkloadApiFailure> {
    let endpoint = checked(endpoint)?;
    let failed = |source| error::of_first_answer(&endpoint, source);
    let client = WorkloadApiClient::connect_to(&endpoint)
        .await
        .map_err(failed)?;
    let first = client.fetch_x509_context().await.map_err(failed)?;
    if choice.among(&choice::names(first.svids())).is_none() {
        return Err(WorkloadApiFailure::NotGiven {
            endpoint,
            wanted: choice,
            given: choice::names(first.svids()),
        });
    }
    let source = X509Source::builder().endpoint(&endpoint).picker(choice);
    let stream = source.build().await;
    let stream = stream.map_err(|source| WorkloadApiFailure::Unusable {
        endpoint: endpoint.clone(),
        source: source.into(),
    })?;
    let updates = stream.updated();
    Ok(WorkloadStream {
        endpoint,
        stream,
        updates,
    })
}
