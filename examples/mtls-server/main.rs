//! An axum service that lets in whom its configuration names, and tells each caller who it is.
//!
//! ```text
//! mtls-server [CONFIG]
//! ```
//!
//! There is not a word about certificates here: identity, renewal and trust come from the Workload
//! API that `CONFIG` (or the environment) names, be it SPIRE's or an embedded one.

use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use hostler_identity::PeerIdentity;
use hostler_identity::config::Config;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// Everybody who gets here is known; what they may do is this application's affair.
async fn hello(peer: PeerIdentity) -> String {
    format!("hello, {}\n", peer.id())
}

/// All that is known of a caller.
async fn whoami(peer: PeerIdentity) -> Json<Value> {
    Json(json!({
        "id": peer.id().to_string(),
        "trust_domain": peer.trust_domain().as_str(),
        "path": peer.path(),
        "expires_at": peer.expires_at().to_string(),
    }))
}

/// A line for each request, with the caller in it.
async fn log(request: Request, next: Next) -> Response {
    let caller = PeerIdentity::of(&request).map(|peer| peer.id().to_string());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = next.run(request).await;
    let caller = caller.unwrap_or_default();
    eprintln!("{caller} {method} {path} {}", answer.status().as_u16());
    answer
}

async fn run(config: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let (source, server) = Config::load(config.as_deref())?.server().await?;
    eprintln!(
        "{} serves at https://{}",
        source.id()?,
        server.local_addr()?
    );
    let app = Router::new()
        .route("/", get(hello))
        .route("/whoami", get(whoami))
        .layer(middleware::from_fn(log));
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    server.serve(app, stop).await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    // Who was refused, and why, is in the log.
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(std::env::args_os().nth(1).map(PathBuf::from)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
