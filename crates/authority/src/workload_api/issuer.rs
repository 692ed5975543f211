//! Who signs: the narrow door between the Workload API and an authority.

use hostler_identity::SpiffeId;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::error::SignError;
use crate::keys::Bundles;

/// Signs for local processes. The embedded [`Authority`] is one; on a host, another one asks the
/// control plane.
///
/// A call may take a while. It is given up after ten seconds, and a failure is not asked for again
/// within five.
pub trait Issuer: Send + Sync + 'static {
    /// Signs an X.509-SVID of this ID for the key of a certificate request (PEM), and answers with
    /// the chain (PEM, leaf first).
    fn sign(
        &self,
        id: SpiffeId,
        csr_pem: String,
    ) -> impl Future<Output = Result<String, IssuerError>> + Send;

    /// Issues a JWT-SVID of this ID for these audiences, at least one.
    fn mint(
        &self,
        id: SpiffeId,
        audience: Vec<String>,
    ) -> impl Future<Output = Result<SecretString, IssuerError>> + Send;

    /// The bundles, and every change of them: those of its own trust domain, and of the foreign
    /// ones that local processes shall recognise.
    fn bundles(&self) -> watch::Receiver<Bundles>;
}

/// Why nothing was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// It will not sign this, now or later. The caller is told the reason.
    #[error("the authority refuses: {0}")]
    Refused(String),
    /// It cannot at the moment. The caller may try again.
    #[error("the authority is not available: {0}")]
    Unavailable(String),
}

impl Issuer for Authority {
    async fn sign(&self, id: SpiffeId, csr_pem: String) -> Result<String, IssuerError> {
        let issued = self.sign_csr(&csr_pem, &id, Timestamp::now())?;
        Ok(issued.chain_pem)
    }

    async fn mint(&self, id: SpiffeId, audience: Vec<String>) -> Result<SecretString, IssuerError> {
        let issued = self.mint_jwt_svid(&id, &audience, None, Timestamp::now())?;
        Ok(issued.token)
    }

    fn bundles(&self) -> watch::Receiver<Bundles> {
        self.watch_bundles()
    }
}

impl From<SignError> for IssuerError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::NotAMember { .. } | SignError::NoAudience | SignError::Csr(_) => {
                Self::Refused(error.to_string())
            }
            // Files and paths of the authority are not the caller's affair; they are in its log.
            error => {
                tracing::warn!(%error, "the authority could not issue");
                Self::Unavailable("it could not issue; its log says why".to_owned())
            }
        }
    }
}
