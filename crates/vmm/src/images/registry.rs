//! Fetching from a registry, by the OCI distribution specification's pull side.
//!
//! Everything that arrives is counted and digested while it arrives: what a registry says of
//! itself is not believed. A transfer that breaks goes on where it broke; a registry that is busy
//! or gone for a moment is asked again, a little later each time.

mod auth;
mod blob;
mod error;
mod http;
mod reach;

use ::http::header::{ACCEPT, HeaderValue};
use ::http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::RwLock;
use url::Url;

use self::http::{Http, Patience};
use self::reach::Reach;
use super::digest::Digest;
use super::manifest::{self, MAX_DOCUMENT};
use super::reference::Reference;

pub use self::auth::Credentials;
pub(crate) use self::error::RegistryError;

/// The most redirections that a registry may send us through.
const MAX_HOPS: usize = 5;

/// One repository of one registry.
pub(crate) struct Repository {
    http: Http,
    base: Url,
    reference: Reference,
    credentials: Option<Credentials>,
    /// What the registry wanted to see last.
    authorization: RwLock<Option<HeaderValue>>,
}

impl Repository {
    pub(crate) fn open(
        reference: Reference,
        credentials: Option<Credentials>,
    ) -> Result<Self, RegistryError> {
        let scheme = if reference.plain_http {
            "http"
        } else {
            "https"
        };
        let (registry, repository) = (&reference.registry, &reference.repository);
        let base = Url::parse(&format!("{scheme}://{registry}/v2/{repository}/"))
            .map_err(|error| RegistryError::Protocol(error.to_string()))?;
        Ok(Self {
            http: Http::default(),
            base,
            reference,
            credentials,
            authorization: RwLock::new(None),
        })
    }

    pub(crate) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A manifest or an index, by tag or digest, with the digest that it has.
    pub(crate) async fn manifest(&self, wanted: &str) -> Result<(Vec<u8>, Digest), RegistryError> {
        let path = format!("manifests/{wanted}");
        let (bytes, headers) = self
            .document(&path, MAX_DOCUMENT, Some(manifest::ACCEPT))
            .await?;
        let found = Digest::of(&bytes);
        let said = headers
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok());
        // Asked for by digest, the digest decides; by tag, what the registry says has to be so.
        let wanted = if wanted.contains(':') {
            Some(wanted)
        } else {
            said
        };
        match wanted.map(str::parse::<Digest>) {
            Some(Ok(wanted)) if wanted != found => Err(RegistryError::Digest { wanted, found }),
            Some(Err(error)) => Err(RegistryError::Protocol(error.to_string())),
            _ => Ok((bytes, found)),
        }
    }

    /// A small blob, whole.
    pub(crate) async fn small_blob(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{digest}");
        let (bytes, _) = self.document(&path, size.min(MAX_DOCUMENT), None).await?;
        let found = Digest::of(&bytes);
        if found != *digest {
            let wanted = digest.clone();
            return Err(RegistryError::Digest { wanted, found });
        }
        Ok(bytes)
    }

    async fn document(
        &self,
        path: &str,
        limit: u64,
        accept: Option<&'static str>,
    ) -> Result<(Vec<u8>, HeaderMap), RegistryError> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        let mut patience = Patience::default();
        loop {
            match self.try_document(path, limit, &headers).await {
                Err(error) => patience.after(error).await?,
                read => return read,
            }
        }
    }

    async fn try_document(
        &self,
        path: &str,
        limit: u64,
        headers: &HeaderMap,
    ) -> Result<(Vec<u8>, HeaderMap), RegistryError> {
        let response = self.get(path, headers).await?;
        if response.status() != StatusCode::OK {
            return Err(RegistryError::of_status(path, response.status()));
        }
        let (parts, body) = response.into_parts();
        Ok((http::whole(body, limit).await?, parts.headers))
    }

    /// Asks for something of the repository; redirections are followed, and what the registry
    /// wants to see is fetched and shown.
    async fn get(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        let url = self.base.join(path);
        let url = url.map_err(|error| RegistryError::Protocol(error.to_string()))?;
        let shown = self.authorization.read().await.clone();
        let (response, is_own) = self.follow(url.clone(), headers, shown).await?;
        // Where the blobs are, nobody has a password to ask for: it is for the registry.
        if response.status() != StatusCode::UNAUTHORIZED || !is_own {
            return Ok(response);
        }
        let challenge = auth::Challenge::of(response.headers())?;
        let answer = self.answer(challenge, http::sender(&response)).await?;
        *self.authorization.write().await = Some(answer.clone());
        let (response, _) = self.follow(url, headers, Some(answer)).await?;
        Ok(response)
    }

    /// Asks, and goes where the answer leads, as far as whoever gave it may lead. Gives the last
    /// answer, and whether it is the registry's own.
    async fn follow(
        &self,
        mut url: Url,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), RegistryError> {
        let mut reach = Reach::Named;
        for _ in 0..MAX_HOPS {
            // A secret is for the registry, not for where it keeps its blobs.
            let is_own = url.origin() == self.base.origin();
            let shown = authorization.as_ref().filter(|_| is_own);
            let response = self.http.get(&url, reach, headers, shown).await?;
            let Some(next) = http::redirection(&url, &response)? else {
                return Ok((response, is_own));
            };
            self.allow(&next)?;
            reach = Reach::led_by(http::sender(&response), &next);
            url = next;
        }
        Err(RegistryError::Protocol(
            "it redirects again and again".to_owned(),
        ))
    }

    /// Plain HTTP is spoken where the registry itself is asked over it, and nowhere else.
    fn allow(&self, url: &Url) -> Result<(), RegistryError> {
        if url.scheme() == "https" || url.scheme() == "http" && self.reference.plain_http {
            return Ok(());
        }
        Err(RegistryError::Protocol(format!(
            "it leads from https to {}:, where nobody could be recognised",
            url.scheme()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registry_elsewhere_leads_nowhere_into_this_hosts_network() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let reference = "http://registry.example/a:1".parse().unwrap();
        let repository = Repository::open(reference, None).unwrap();
        let ask = async |host: &str| {
            let url = format!("http://{host}:{port}/").parse().unwrap();
            let (reach, headers) = (Reach::led_by(None, &url), HeaderMap::new());
            let asked = repository.http.get(&url, reach, &headers, None).await;
            let error = asked.unwrap_err();
            assert!(matches!(error, RegistryError::OutOfReach(_)), "{error}");
            assert!(!error.is_passing());
        };
        for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254"] {
            ask(host).await;
        }
        assert!(listener.accept().is_err(), "somebody was asked");
    }
}
