//! How client commands talk to a control plane: its REST routes, over TLS that verifies, with a
//! bearer token that is never printed.

mod commands;
mod known;
mod stream;
pub(crate) mod tls;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use http::response::Parts;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use crate::failure::{Doing, Failure};

pub(crate) use commands::as_commands;
pub(crate) use known::{Known, Place, config_path, forget_token, write_private};
pub(crate) use stream::Events;
use tls::TlsComplaint;

/// An answer longer than this is not one of ours.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How long a command waits for an answer that is not known to take long.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long it waits where a host downloads or boots something.
pub(crate) const LONG_PATIENCE: Duration = Duration::from_secs(900);

/// Where the control plane is. The token comes from `HOSTLER_TOKEN` or the saved login, never from
/// a flag, which every process of the machine could read.
#[derive(Args, Clone)]
pub(crate) struct Connect {
    /// The control plane's people's door [default: the saved login]
    #[arg(long, env = "HOSTLER_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The CA that signed its certificate, PEM [default: the saved login, else the system's]
    #[arg(long, env = "HOSTLER_CA", value_name = "FILE")]
    pub(crate) ca: Option<std::path::PathBuf>,
}

/// A control plane, ready to be asked.
pub(crate) struct Api {
    base: Url,
    /// Absent: nobody is logged in yet.
    token: Option<SecretString>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// One request, before it is sent.
pub(crate) struct Ask<'a> {
    api: &'a Api,
    method: Method,
    url: Url,
    body: Option<Value>,
    patience: Duration,
}

/// A page of a list.
pub(crate) struct Page {
    pub(crate) items: Value,
    next: Option<String>,
}

impl Connect {
    /// Finds server, token and CA, and prepares to connect.
    pub(crate) fn open(&self) -> Result<Api, Failure> {
        Api::new(Known::find(self)?)
    }
}

impl Api {
    pub(crate) fn new(known: Known) -> Result<Self, Failure> {
        let Known { server, token, ca } = known;
        Self::at(&server, ca.as_deref(), Some(token))
    }

    /// Without a token, to get one.
    pub(crate) fn stranger(place: &Place) -> Result<Self, Failure> {
        Self::at(&place.server, place.ca.as_deref(), None)
    }

    fn at(server: &str, ca: Option<&Path>, token: Option<SecretString>) -> Result<Self, Failure> {
        let base = Url::parse(server)
            .ok()
            .filter(|url| url.scheme() == "https" && url.has_host())
            .ok_or_else(|| {
                Failure::new(format!(
                    "{server:?} is no server; give --server https://HOST:PORT"
                ))
            })?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // A request's body follows its head at once, instead of waiting for the server to have
        // acknowledged that: 40 ms on Linux, by which a restored VM could have answered.
        tcp.set_nodelay(true);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(ca)?)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(https);
        Ok(Self { base, token, http })
    }

    pub(crate) fn get(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::PUT, path)
    }

    pub(crate) fn patch(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &[&str]) -> Ask<'_> {
        self.ask(Method::DELETE, path)
    }

    /// Every item of a list, however many pages it has.
    pub(crate) async fn list(&self, path: &[&str]) -> Result<Value, Failure> {
        self.list_where(path, &[]).await
    }

    /// Every item of a list that passes these filters; one without a value is none.
    pub(crate) async fn list_where(
        &self,
        path: &[&str],
        filters: &[(&str, Option<String>)],
    ) -> Result<Value, Failure> {
        let mut all = Vec::new();
        let mut ask = self.get(path).query("limit", "1000");
        for (key, value) in filters {
            if let Some(value) = value {
                ask = ask.query(key, value);
            }
        }
        loop {
            let page = ask.send_page().await?;
            all.extend(page.items.as_array().into_iter().flatten().cloned());
            let Some(next) = page.next else {
                return Ok(Value::Array(all));
            };
            let url = self
                .base
                .join(&next)
                .doing(|| "the server's next page is no URL")?;
            // The token goes to no other place than the one that the user named.
            if url.origin() != self.base.origin() {
                return Err(Failure::new(format!(
                    "the server's next page is elsewhere: {next}"
                )));
            }
            ask = Ask {
                url,
                ..self.get(path)
            };
        }
    }

    fn ask(&self, method: Method, path: &[&str]) -> Ask<'_> {
        let mut url = self.base.clone();
        // Checked when the URL was parsed: it has a host, so it can be a base. Each segment is
        // escaped, so a name cannot reach another route.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Ask {
            api: self,
            method,
            url,
            body: None,
            patience: PATIENCE,
        }
    }
}

impl Ask<'_> {
    pub(crate) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) fn query(mut self, key: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(key, value);
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends it and waits for the answer's JSON; null when there is none.
    pub(crate) async fn send(self) -> Result<Value, Failure> {
        Ok(self.send_page().await?.items)
    }

    /// Sends it and waits for an answer that is text and not JSON.
    pub(crate) async fn text(self) -> Result<String, Failure> {
        let (_, body) = self.in_time().await?;
        String::from_utf8(body.into()).doing(|| "the answer is not text")
    }

    async fn send_page(self) -> Result<Page, Failure> {
        let (head, body) = self.in_time().await?;
        let items = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body).doing(|| "the answer is not JSON")?,
        };
        let link = head
            .headers
            .get(header::LINK)
            .and_then(|link| link.to_str().ok());
        Ok(Page {
            items,
            next: link.and_then(next_link),
        })
    }

    async fn in_time(self) -> Result<(Parts, Bytes), Failure> {
        let patience = self.patience;
        let server = self.api.base.clone();
        match tokio::time::timeout(patience, self.exchange()).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Failure::new(format!(
                "{server} did not answer within {} s; it may still be at work, ask again",
                patience.as_secs()
            ))),
        }
    }

    /// Sends it and waits for the head of the answer.
    async fn begin(self, accept: Option<&'static str>) -> Result<Response<Incoming>, Failure> {
        let Self {
            api,
            method,
            url,
            body,
            ..
        } = self;
        let mut request = http::Request::builder().method(method).uri(url.as_str());
        if let Some(token) = &api.token {
            let bearer = format!("Bearer {}", token.expose_secret());
            let mut bearer = http::HeaderValue::from_str(&bearer)
                .map_err(|_| Failure::new("the token holds characters that no token has"))?;
            bearer.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.map(|b| b.to_string()).unwrap_or_default()))
            .doing(|| format!("cannot ask {url}"))?;
        let answer = api.http.request(request).await;
        answer.map_err(|error| unreached(&api.base, &error))
    }

    async fn exchange(self) -> Result<(Parts, Bytes), Failure> {
        let presented = self.api.token.is_some();
        let (head, body) = self.begin(None).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body
            .map_err(|e| Failure::new(format!("the answer broke off: {e}")))?
            .to_bytes();
        if !head.status.is_success() {
            return Err(refusal(head.status, &body, presented));
        }
        Ok((head, body))
    }
}

/// Why there was no answer, and what to do about it.
fn unreached(server: &Url, error: &(dyn Error + 'static)) -> Failure {
    match tls::complaint(error) {
        Some(TlsComplaint::UnknownAuthority) => Failure::new(format!(
            "{server} is not signed by a CA that is trusted here; give --ca FILE or set \
             HOSTLER_CA, with a copy of ca.pem of that server's data directory"
        )),
        Some(TlsComplaint::OtherName(names)) => Failure::new(format!(
            "the certificate of {server} is for other names ({names}); call it by one of them, or \
             start that server with --tls-name"
        )),
        None => Failure::new(format!(
            "cannot reach the control plane at {server} (is it running?): {}",
            root(error)
        )),
    }
}

/// The last link of a chain of causes, which says most.
fn root(mut error: &(dyn Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The target of a `Link: <...>; rel="next"` header (RFC 8288).
fn next_link(link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    parameters
        .contains("rel=\"next\"")
        .then(|| target.to_owned())
}

/// What the server's refusal says, or what a refusal of its kind means.
fn refusal(status: StatusCode, body: &[u8], presented: bool) -> Failure {
    let told: Option<Value> = serde_json::from_slice(body).ok();
    let message = told.as_ref().and_then(|v| v["error"]["message"].as_str());
    let message = message.map(as_commands);
    match (status, message) {
        (StatusCode::UNAUTHORIZED, _) if presented => Failure::refusal(
            "the control plane does not accept your token (401); it may have expired: check \
             HOSTLER_TOKEN, or run `hostler login`",
        ),
        (StatusCode::FORBIDDEN, Some(message)) => Failure::refusal(format!("{message} (403)")),
        (_, Some(message)) => Failure::new(format!("{message} ({})", status.as_u16())),
        (StatusCode::NOT_FOUND, None) => Failure::new(
            "the server does not know this request (404); is --server a control plane?",
        ),
        (_, None) => Failure::new(format!("the server answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_next_link_leads_on() {
        let next = next_link("</v1/hosts?cursor=abc&limit=2>; rel=\"next\"");
        assert_eq!(next.as_deref(), Some("/v1/hosts?cursor=abc&limit=2"));
        assert_eq!(next_link("</v1/hosts>; rel=\"prev\""), None);
        assert_eq!(next_link("garbage"), None);
    }

    #[test]
    fn a_refusal_tells_what_the_server_said() {
        let body = br#"{"error":{"code":"conflict","message":"there is one already"}}"#;
        let line = refusal(StatusCode::CONFLICT, body, true).to_string();
        assert_eq!(line, "there is one already (409)");
        assert!(
            refusal(StatusCode::NOT_FOUND, b"<html>", true)
                .to_string()
                .contains("--server")
        );
    }

    #[test]
    fn a_name_cannot_reach_another_route() {
        let known = Known {
            server: "https://127.0.0.1:1".into(),
            token: SecretString::from("t"),
            ca: None,
        };
        let api = Api::new(known).expect("a client");
        let ask = api.get(&["v1", "vms", "../hosts?x=1"]);
        assert_eq!(ask.url.path(), "/v1/vms/..%2Fhosts%3Fx=1");
    }
}
