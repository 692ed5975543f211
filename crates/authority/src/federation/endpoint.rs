//! Where a trust domain publishes its bundle, and asking there once.

use std::time::Duration;

use bytes::Bytes;
use hostler_identity::{BundleDocument, BundleDocumentError, Client, ClientError, TrustDomain};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};

/// Far above any bundle: some hundred roots.
const MAX_BYTES: usize = 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);

/// A bundle endpoint: the URL at which one trust domain publishes its bundle document.
///
/// Which trust domain it speaks for is our decision, not the endpoint's: nothing in the document
/// says so.
#[derive(Debug, Clone)]
pub struct BundleEndpoint {
    trust_domain: TrustDomain,
    url: Uri,
    client: Client,
}

/// A URL that cannot be a bundle endpoint's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is no bundle endpoint; give https://HOST[:PORT][/PATH] without a user name")]
pub struct BundleEndpointError {
    url: String,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No answer, or not from who it should be.
    #[error(transparent)]
    Exchange(#[from] ClientError),
    /// Another answer than 200. Redirects are not followed: the next server would be one that
    /// nobody has decided to trust.
    #[error("{url} answered {status}, not 200; is it the bundle endpoint?")]
    Status {
        /// Where.
        url: Uri,
        /// What it answered.
        status: StatusCode,
    },
    /// The answer is no bundle.
    #[error("the bundle at {url} cannot be used: {source}")]
    Document {
        /// Where.
        url: Uri,
        /// What is wrong with it.
        source: BundleDocumentError,
    },
}

impl BundleEndpoint {
    /// An endpoint, and the client that says by what its server is recognised. It is given 30 s
    /// and 1 MiB for an answer.
    pub fn new(
        trust_domain: TrustDomain,
        url: &str,
        client: Client,
    ) -> Result<Self, BundleEndpointError> {
        let refused = || BundleEndpointError {
            url: url.to_owned(),
        };
        let parsed: Uri = url.parse().map_err(|_| refused())?;
        let authority = parsed.authority().ok_or_else(refused)?;
        if parsed.scheme() != Some(&Scheme::HTTPS)
            || authority.as_str().contains('@')
            || authority.host().is_empty()
        {
            return Err(refused());
        }
        Ok(Self {
            trust_domain,
            url: parsed,
            client: client
                .with_timeout(TIMEOUT)
                .with_max_response_bytes(MAX_BYTES),
        })
    }

    /// The trust domain whose bundle is there.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Asks once.
    pub async fn fetch(&self) -> Result<BundleDocument, FetchError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.url.clone();
        let answer = self.client.request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status {
                url: self.url.clone(),
                status: answer.status(),
            });
        }
        BundleDocument::parse(answer.body()).map_err(|source| FetchError::Document {
            url: self.url.clone(),
            source,
        })
    }
}
