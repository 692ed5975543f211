//! `hostler server --attach FILE`: APIs of others among the control plane's operations.
//!
//! The file names each API, its document, where it is, and the file with its credential. A mistake in
//! it is an error at the start that names the API; an operation that cannot be called is a line in
//! the log.

use std::path::{Path, PathBuf};

use hostler_fleet::ATTACHED_CALL;
use hostler_gateway::{Credential, Exposed, ForeignApi, Imported};
use http::HeaderName;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::client::tls;
use crate::failure::{Doing, Failure};
use crate::options::secret_of_file;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachments {
    apis: Vec<Attachment>,
}

/// Paths are relative to the file that has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachment {
    name: String,
    /// The OpenAPI document, JSON or YAML.
    document: PathBuf,
    base_url: Option<Url>,
    /// By what its server is recognised; absent: the system's CAs.
    ca: Option<PathBuf>,
    bearer_file: Option<PathBuf>,
    /// The name of the header that holds the key of `key_file`.
    key_header: Option<String>,
    key_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    #[serde(default)]
    external: External,
}

/// Which operations callers from outside may use.
#[derive(Deserialize, Default)]
#[serde(
    untagged,
    expecting = "external is true, false, or a list of operations"
)]
enum External {
    #[default]
    Unsaid,
    All(bool),
    Only(Vec<String>),
}

/// Reads the file and all that it names.
pub(crate) fn read(path: &Path) -> Result<Vec<Imported>, Failure> {
    let text = std::fs::read_to_string(path)
        .doing(|| format!("cannot read the attachments {}", path.display()))?;
    let attachments: Attachments = serde_norway::from_str(&text)
        .doing(|| format!("the attachments {} are wrong", path.display()))?;
    let beside = path.parent().unwrap_or(Path::new("."));
    let imported = attachments.apis.into_iter().map(|api| {
        let name = api.name.clone();
        let imported = api.import(beside).map_err(|failure| {
            Failure::new(format!("the API {name} cannot be attached: {failure}"))
        })?;
        for left_out in &imported.left_out {
            let (operation, reason) = (&left_out.operation, &left_out.reason);
            tracing::warn!(api = name, operation, reason, "an operation is left out");
        }
        // Where the credential goes; without `base_url` only the document says it.
        let base_url = imported.upstream.base_url();
        let operations = imported.names.len();
        tracing::info!(api = name, base_url, operations, "attached");
        Ok(imported)
    });
    imported.collect()
}

impl Attachment {
    fn import(self, beside: &Path) -> Result<Imported, Failure> {
        let document = beside.join(&self.document);
        let reading = || format!("cannot read its document {}", document.display());
        let bytes = std::fs::read(&document).doing(reading)?;
        let is_yaml = document
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        let bytes = match is_yaml {
            true => {
                let value: Value = serde_norway::from_slice(&bytes).doing(reading)?;
                value.to_string().into_bytes()
            }
            false => bytes,
        };
        let ca = self.ca.as_ref().map(|ca| beside.join(ca));
        let credential = self.credential(beside)?;
        let mut api =
            ForeignApi::new(self.name, tls::of_others(ca.as_deref())?).credential(credential);
        if let Some(url) = self.base_url {
            api = api.base_url(url);
        }
        let exposed = match self.external {
            External::Unsaid | External::All(false) => None,
            External::All(true) => Some(Exposed::All),
            External::Only(names) => Some(Exposed::Only(names)),
        };
        if let Some(exposed) = exposed {
            api = api.exposed(ATTACHED_CALL, exposed);
        }
        api.import(&bytes)
            .map_err(|error| Failure::new(error.to_string()))
    }

    fn credential(&self, beside: &Path) -> Result<Credential, Failure> {
        let secret = |path: &Path| {
            let secret = secret_of_file(&beside.join(path))?;
            Ok::<_, Failure>(secrecy::SecretString::from(
                secrecy::ExposeSecret::expose_secret(&secret).trim(),
            ))
        };
        let given = (
            &self.bearer_file,
            &self.key_header,
            &self.key_file,
            &self.user,
            &self.password_file,
        );
        match given {
            (None, None, None, None, None) => Ok(Credential::None),
            (Some(token), None, None, None, None) => Ok(Credential::Bearer(secret(token)?)),
            (None, Some(header), Some(key), None, None) => {
                let name = HeaderName::try_from(header)
                    .doing(|| format!("{header:?} is no name of a header"))?;
                Ok(Credential::Header(name, secret(key)?))
            }
            (None, None, None, Some(user), Some(password)) => {
                Ok(Credential::Basic(user.clone(), secret(password)?))
            }
            _ => Err(Failure::new(
                "give bearer_file, or key_header with key_file, or user with password_file",
            )),
        }
    }
}
