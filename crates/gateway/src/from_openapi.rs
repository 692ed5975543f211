//! Another HTTP API's operations among our own, by its OpenAPI document (3.0 or 3.1).
//!
//! An operator has a document and a credential; [`ForeignApi::import`] makes a service of them that a
//! registry takes like any other. Its operations are internal unless it is said who may call them.
//! Whoever calls one reads what the API answers, and not the credential: it is sent to the API's
//! own address and nowhere else, and taken out of what comes back where it can be recognised.
//!
//! One object is the input of an operation: its parameters by their names, and its JSON body as the
//! field `body`. An error of the API is `HTTP_404`, with the same status; a stream of events is a
//! subscription. What cannot be called this way (a body that is no JSON, cookies) is left out, and
//! said.
//!
//! The document is not believed: its size, its references and what it makes of a path have bounds,
//! and nothing that it refers to elsewhere is fetched.

mod document;
mod events;
mod failure;
mod media;
mod operation;
mod parameter;
mod redact;
mod request;
mod role;
mod schema;
mod upstream;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hostler_operations::{
    Foreign, NameError, OperationName, Scope, Service, Undecided, foreign, foreign_subscription,
    service,
};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use rustls::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use document::Document;
use operation::Plan;
use redact::Redaction;
pub use upstream::Upstream;

/// An API that is to be called.
#[must_use = "nothing is imported before import()"]
pub struct ForeignApi {
    name: String,
    tls: ClientConfig,
    base_url: Option<Url>,
    credential: Credential,
    exposed: Option<(Scope, Exposed)>,
}

/// What an API is shown of whoever calls it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Credential {
    /// Nothing.
    #[default]
    None,
    /// `Authorization: Bearer …` (RFC 6750).
    Bearer(SecretString),
    /// A key in a header of its own.
    Header(HeaderName, SecretString),
    /// A user and a password (RFC 7617).
    Basic(String, SecretString),
}

/// Which operations are there for callers from outside.
#[derive(Clone, Debug)]
pub enum Exposed {
    /// All.
    All,
    /// These, by the names that they have here.
    Only(Vec<String>),
}

/// What became of a document.
#[non_exhaustive]
pub struct Imported {
    /// The operations, for [`RegistryBuilder::service`](hostler_operations::RegistryBuilder::service).
    pub service: Service<Upstream>,
    /// What they work on.
    pub upstream: Arc<Upstream>,
    /// The operations by name.
    pub names: Vec<String>,
    /// What could not be taken over, and why.
    pub left_out: Vec<LeftOut>,
}

/// Something of the document that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// `GET /things/{id}`.
    pub operation: String,
    /// Why.
    pub reason: String,
}

/// Why a document cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It is not read at all.
    #[error("this is no OpenAPI document: {0}")]
    Document(String),
    /// The service cannot have that name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is not known where the API is.
    #[error("where the API is is not said: {0}; give its base URL")]
    BaseUrl(String),
    /// The credential would be read by whoever is on the way.
    #[error("{0} is not HTTPS, and not on this machine; a credential is not sent there")]
    Plain(Url),
    /// A header cannot have that value.
    #[error("the credential holds characters that no header can have")]
    Credential,
    /// Two operations would have one name.
    #[error("{first} and {second} are both {name:?}; change an operationId")]
    Twice {
        /// The name.
        name: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// Something is to be exposed that is not there.
    #[error("there is no operation {name:?} to expose; there are {known}")]
    Exposed {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

impl ForeignApi {
    /// An API whose operations are `NAME/…` here, and by what its server is recognised.
    pub fn new(name: impl Into<String>, mut tls: ClientConfig) -> Self {
        // Which versions of HTTP are offered is the client's task, which takes no other answer.
        tls.alpn_protocols.clear();
        Self {
            name: name.into(),
            tls,
            base_url: None,
            credential: Credential::None,
            exposed: None,
        }
    }

    /// Where it is; what its document says unless said. Only HTTPS, or this machine.
    pub fn base_url(mut self, url: Url) -> Self {
        self.base_url = Some(url);
        self
    }

    /// What it is shown.
    pub fn credential(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }

    /// Lets callers with this scope call these operations from outside.
    pub fn exposed(mut self, scope: Scope, operations: Exposed) -> Self {
        self.exposed = Some((scope, operations));
        self
    }

    /// Reads its document, JSON.
    ///
    /// # Errors
    /// [`ImportError`]; a single operation that cannot be called is none, but is
    /// [left out](Imported::left_out).
    pub fn import(self, document: &[u8]) -> Result<Imported, ImportError> {
        OperationName::new(&self.name, "any")?;
        let document = Document::parse(document)?;
        let base_url = match self.base_url {
            Some(url) => url,
            None => document.base_url()?,
        };
        if !is_private(&base_url) {
            return Err(ImportError::Plain(without_user(base_url)));
        }
        let secret = self.credential.secret()?;
        let credential = secret.header.as_ref().map(|(name, _)| name.clone());
        let upstream = Upstream::new(self.tls, &base_url, secret)?;

        let (planned, left_out) = planned(&self.name, &document, credential.as_ref())?;
        let names: Vec<String> = planned.iter().map(|p| p.described.name.clone()).collect();
        if let Some((_, Exposed::Only(wanted))) = &self.exposed
            && let Some(name) = wanted.iter().find(|name| !names.contains(name))
        {
            return Err(ImportError::Exposed {
                name: name.clone(),
                known: names.join(", "),
            });
        }
        let mut imported = service(self.name);
        for Planned {
            described, plan, ..
        } in planned
        {
            let scope = self.exposed.as_ref().filter(|(_, exposed)| match exposed {
                Exposed::All => true,
                Exposed::Only(names) => names.contains(&described.name),
            });
            let operation = callable(described, plan);
            imported = imported.with(match scope {
                Some((scope, _)) => operation.requires(scope.clone()),
                None => operation.internal(),
            });
        }
        Ok(Imported {
            service: imported,
            upstream: Arc::new(upstream),
            names,
            left_out,
        })
    }
}

/// An operation that can be called.
struct Planned {
    /// As the document has it.
    whole: String,
    described: Foreign,
    plan: Plan,
}

/// The operations of a document, and what of it can be none.
fn planned(
    service: &str,
    document: &Document,
    credential: Option<&HeaderName>,
) -> Result<(Vec<Planned>, Vec<LeftOut>), ImportError> {
    let (mut planned, mut left_out): (Vec<Planned>, _) = (Vec::new(), Vec::new());
    for found in document.operations()? {
        let whole = found.to_string();
        let plan = operation::plan(service, document, &found, credential);
        let plan = plan.and_then(|(described, plan)| {
            described.check(service)?;
            Ok((described, plan))
        });
        let (described, plan) = match plan {
            Ok(plan) => plan,
            Err(reason) => {
                let operation = whole;
                left_out.push(LeftOut { operation, reason });
                continue;
            }
        };
        let name = &described.name;
        if let Some(first) = planned.iter().find(|p| p.described.name == *name) {
            return Err(ImportError::Twice {
                name: described.name,
                first: first.whole.clone(),
                second: whole,
            });
        }
        planned.push(Planned {
            whole,
            described,
            plan,
        });
    }
    Ok((planned, left_out))
}

fn callable(described: Foreign, plan: Plan) -> Undecided<Upstream> {
    let plan = Arc::new(plan);
    if plan.streams {
        return foreign_subscription(described, move |upstream: Arc<Upstream>, _, input| {
            let plan = Arc::clone(&plan);
            async move { upstream.subscribe(&plan, input).await }
        });
    }
    foreign(described, move |upstream: Arc<Upstream>, _, input| {
        let plan = Arc::clone(&plan);
        async move { upstream.call(&plan, input).await }
    })
}

/// The same without who is named in it and by what they prove it: it is for a log.
fn without_user(mut url: Url) -> Url {
    // They fail where a URL has no place for them, and so has none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url
}

/// Whether nobody on the way reads what is sent there.
fn is_private(url: &Url) -> bool {
    let on_this_machine = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => url.has_host(),
        "http" => on_this_machine,
        _ => false,
    }
}

impl Credential {
    /// The header that it is, and as what it may come back.
    fn secret(&self) -> Result<Secret, ImportError> {
        let (name, value, forms) = match self {
            Self::None => return Ok(Secret::default()),
            Self::Bearer(token) => {
                let token = token.expose_secret();
                let value = format!("Bearer {token}");
                (AUTHORIZATION, value, vec![token.to_owned()])
            }
            Self::Header(name, key) => {
                let key = key.expose_secret();
                let mut forms = vec![key.to_owned()];
                // `Token …`: an API that understands its first word may repeat the rest alone.
                forms.extend(key.split_once(' ').map(|(_, rest)| rest.trim().to_owned()));
                (name.clone(), key.to_owned(), forms)
            }
            Self::Basic(user, password) => {
                let password = password.expose_secret();
                let both = STANDARD.encode(format!("{user}:{password}"));
                let value = format!("Basic {both}");
                (AUTHORIZATION, value, vec![both, password.to_owned()])
            }
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| ImportError::Credential)?;
        value.set_sensitive(true);
        Ok(Secret {
            header: Some((name, value)),
            redaction: Redaction::new(forms),
        })
    }
}

/// A credential, ready to be sent and to be recognised.
#[derive(Default)]
struct Secret {
    header: Option<(HeaderName, HeaderValue)>,
    redaction: Redaction,
}
