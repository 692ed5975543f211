//! `hostler svid`: identities in files, and from a Workload API.

mod certificate;
mod inspect;
mod stream;
mod write;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hostler_identity::WorkloadStream;

use crate::failure::Failure;
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
    /// Verify an X.509-SVID as a member of its trust domain would: exit 0, or 1 and why not
    #[command(after_help = "Example:\n  hostler svid verify --bundle ca.pem leaf.pem")]
    Verify {
        /// The certificate chain, PEM, leaf first
        file: PathBuf,
        /// The roots of its trust domain: PEM certificates, or a SPIFFE bundle (JWK set)
        #[arg(long, value_name = "FILE")]
        bundle: PathBuf,
        /// Whose it must be [default: anybody of the trust domain]
        #[arg(long, value_name = "SPIFFE_ID")]
        id: Option<String>,
        #[command(flatten)]
        printing: Printing,
    },
    /// Ask a Workload API who this process is
    #[command(
        after_help = "Example:\n  hostler svid fetch --endpoint unix:///run/spire/agent/api.sock"
    )]
    Fetch {
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
}

/// Where to ask.
#[derive(Args)]
pub(crate) struct From {
    /// The Workload API: unix:///path or tcp://IP:PORT
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ADDRESS")]
    endpoint: Option<String>,
}

impl From {
    async fn open(&self) -> Result<WorkloadStream, Failure> {
        let endpoint = self.endpoint.as_deref().ok_or_else(|| {
            Failure::new(
                "where is the Workload API? give --endpoint unix:///PATH or set \
                 SPIFFE_ENDPOINT_SOCKET",
            )
        })?;
        Ok(WorkloadStream::open(endpoint).await?)
    }
}

pub(crate) async fn run(svid: Svid) -> Result<(), Failure> {
    match svid {
        Svid::Show { file, printing } => inspect::show(&file, printing),
        Svid::Verify {
            file,
            bundle,
            id,
            printing,
        } => inspect::verify(&file, &bundle, id.as_deref(), printing),
        Svid::Fetch { from, printing } => stream::fetch(&from, printing).await,
        Svid::Watch { from, printing } => stream::watch(&from, printing).await,
        Svid::Write(options) => write::run(options).await,
    }
}
