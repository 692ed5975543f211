//! `hostler svid`: identities in files, from a Workload API, and their authority's keys.

mod certificate;
mod generations;
mod inspect;
mod stream;
mod token;
mod write;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hostler_identity::{SpiffeId, SvidChoice, WorkloadStream, parse_spiffe_id};
use serde_json::json;

use super::{Common, show_fields};
use crate::failure::{Doing, Failure};
use crate::output::Printing;
pub(crate) use certificate::describe;

#[derive(Subcommand)]
pub(crate) enum Svid {
    /// Show the certificates in a PEM file, and whether they are an X.509-SVID
    #[command(after_help = "Example:\n  hostler svid show svid.pem")]
    Show {
        /// A PEM file; blocks that are no certificates are passed over
        file: PathBuf,
        #[command(flatten)]
        printing: Printing,
    },
    /// Verify an SVID as a member of its trust domain would: exit 0, or 1 and why not
    #[command(
        after_help = "Examples:\n  hostler svid verify --bundle ca.pem leaf.pem\n  \
                      hostler svid verify --bundle bundle.json --audience billing token.jwt"
    )]
    Verify {
        /// The certificate chain, PEM, leaf first; or a JWT-SVID; - reads the standard input
        file: PathBuf,
        /// The roots of its trust domain: PEM certificates, or a SPIFFE bundle (JWK set), which a
        /// JWT-SVID needs
        #[arg(long, value_name = "FILE")]
        bundle: PathBuf,
        /// Whom a JWT-SVID must be for: the name of whoever is asked to believe it
        #[arg(long, value_name = "NAME")]
        audience: Option<String>,
        /// Whose it must be [default: anybody of the trust domain]
        #[arg(long, value_name = "SPIFFE_ID")]
        id: Option<String>,
        #[command(flatten)]
        printing: Printing,
    },
    /// Ask a Workload API who this process is, or for a token that says so
    #[command(
        after_help = "Examples:\n  hostler svid fetch --endpoint unix:///run/spire/agent/api.sock\n  \
                      hostler svid fetch --jwt --audience billing --output json"
    )]
    Fetch {
        /// Fetch a JWT-SVID: a token to present where mutual TLS does not reach
        #[arg(long, requires = "audience")]
        jwt: bool,
        /// Whom the token is for; may be given several times
        #[arg(long, value_name = "NAME", requires = "jwt")]
        audience: Vec<String>,
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        printing: Printing,
    },
    /// Ask, and tell every renewal and withdrawal until interrupted
    #[command(
        after_help = "Example:\n  SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent/api.sock \
                            hostler svid watch --output json"
    )]
    Watch {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        printing: Printing,
    },
    /// Keep PEM files fresh for a program that knows nothing of SPIFFE
    #[command(
        after_help = "Example:\n  hostler svid write --dir /run/nginx-tls --reload \
                            systemctl reload nginx"
    )]
    Write(write::Write),
    /// Give the authority's keys up: new ones, and a new identity for every host and process
    #[command(
        long_about = "Give the authority's keys up, because they may have become known. New keys \
                      are published at once and sign after the overlap; then every host and \
                      process gets a new identity. What the old ones signed is trusted until it \
                      expires.",
        after_help = "Example:\n  hostler svid rotate --overlap 60"
    )]
    Rotate {
        /// How long the new keys are published before they sign [default: 30]
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
}

/// Where to ask, and for which identity.
#[derive(Args)]
pub(crate) struct From {
    /// The Workload API: unix:///path or tcp://IP:PORT
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ADDRESS")]
    endpoint: Option<String>,
    /// Which identity, where there are several [default: the first]
    #[arg(long, value_name = "SPIFFE_ID", conflicts_with = "hint")]
    id: Option<String>,
    /// Which identity, by the hint of its entry
    #[arg(long)]
    hint: Option<String>,
}

impl From {
    async fn open(&self) -> Result<WorkloadStream, Failure> {
        let (endpoint, choice) = (self.endpoint()?, self.choice()?);
        Ok(WorkloadStream::open_choosing(endpoint, choice).await?)
    }

    fn endpoint(&self) -> Result<&str, Failure> {
        self.endpoint.as_deref().ok_or_else(|| {
            Failure::new(
                "where is the Workload API? give --endpoint unix:///PATH or set \
                 SPIFFE_ENDPOINT_SOCKET",
            )
        })
    }

    fn choice(&self) -> Result<SvidChoice, Failure> {
        match (&self.id, &self.hint) {
            (Some(text), _) => Ok(SvidChoice::Id(spiffe_id(text)?)),
            (None, Some(hint)) => Ok(SvidChoice::Hint(hint.clone())),
            (None, None) => Ok(SvidChoice::Default),
        }
    }
}

fn spiffe_id(text: &str) -> Result<SpiffeId, Failure> {
    parse_spiffe_id(text).doing(|| format!("{text:?} is no SPIFFE ID"))
}

pub(crate) async fn run(svid: Svid) -> Result<(), Failure> {
    match svid {
        Svid::Show { file, printing } => inspect::show(&file, printing),
        Svid::Verify {
            file,
            bundle,
            audience,
            id,
            printing,
        } => {
            let by = inspect::By {
                bundle: &bundle,
                audience: audience.as_deref(),
                id: id.as_deref().map(spiffe_id).transpose()?,
            };
            inspect::verify(&file, &by, printing)
        }
        Svid::Fetch {
            jwt: true,
            audience,
            from,
            printing,
        } => token::fetch(&from, &audience, printing).await,
        Svid::Fetch { from, printing, .. } => stream::fetch(&from, printing).await,
        Svid::Watch { from, printing } => stream::watch(&from, printing).await,
        Svid::Write(options) => write::run(options).await,
        Svid::Rotate { overlap, common } => rotate(overlap, &common).await,
    }
}

async fn rotate(overlap: Option<u32>, common: &Common) -> Result<(), Failure> {
    let mut body = json!({});
    if let Some(seconds) = overlap {
        body["overlap_secs"] = seconds.into();
    }
    let api = common.connect.open()?;
    let ask = api.post(&["v1", "svids", "rotate"]).body(body);
    show_fields(common.printing, &ask.send().await?);
    Ok(())
}
