//! A SPIFFE authority and its Workload API in one small program: what SPIRE's server and agent are
//! in production, for a laptop.
//!
//! ```text
//! mtls-authority DIR TRUST_DOMAIN PATH=SELECTOR[,SELECTOR]...
//! mtls-authority ./authority example.org /service/api=unix:uid:1000,unix:path:/opt/api
//! ```
//!
//! A process that matches all selectors of an entry is that path of the trust domain.

use std::error::Error;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use hostler_authority::Authority;
use hostler_authority::workload_api::{Entries, Entry, Selector, WorkloadApi};
use hostler_identity::{TrustDomain, parse_spiffe_id, parse_trust_domain};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

fn entry(trust_domain: &TrustDomain, text: &str) -> Result<Entry, Box<dyn Error>> {
    let (path, selectors) = text
        .split_once('=')
        .ok_or("give PATH=SELECTOR[,SELECTOR]")?;
    let id = parse_spiffe_id(&format!("{}{path}", trust_domain.id_string()))?;
    let selectors = selectors.split(',').map(str::parse::<Selector>);
    Ok(Entry::new(id, selectors.collect::<Result<Vec<_>, _>>()?)?)
}

async fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [dir, trust_domain, entries @ ..] = arguments else {
        return Err("usage: mtls-authority DIR TRUST_DOMAIN PATH=SELECTOR[,SELECTOR]...".into());
    };
    let trust_domain = parse_trust_domain(trust_domain)?;
    let entries = entries
        .iter()
        .map(|text| entry(&trust_domain, text))
        .collect::<Result<Entries, _>>()?;
    let dir = Path::new(dir);
    let authority = Authority::open(&dir.join("keys"), trust_domain)?;
    // Whoever holds `_entries` may replace them at any time; here they stay.
    let (_entries, seen) = watch::channel(entries);
    let api = WorkloadApi::bind(&dir.join("workload/api.sock"), authority, seen)?;
    eprintln!("export SPIFFE_ENDPOINT_SOCKET={}", api.endpoint());
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    Ok(api.serve(stop).await?)
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(&std::env::args().skip(1).collect::<Vec<_>>()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
