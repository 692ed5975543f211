//! The process around a command: its runtime, its log, the signals that end it.

use std::future::Future;
use std::num::NonZero;
use std::thread::available_parallelism;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::failure::{Doing, Failure};
use crate::output;

/// A daemon's work is mostly waiting: few threads, and each one costs memory. Where it may use fewer
/// processors than that, more threads would only take turns.
const DAEMON_THREADS: usize = 2;

/// Runs a daemon until it is done.
pub(crate) fn daemon(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    log_to_stderr();
    use_all_descriptors();
    use_one_cryptography()?;
    let processors = available_parallelism().map_or(1, NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(DAEMON_THREADS.min(processors))
        .enable_all()
        .build()
        .doing(|| "cannot start the runtime")?
        .block_on(work)
}

/// Each connection and each VM takes file descriptors, and the usual soft limit is made for
/// programs that know only `select`. The hard limit is the administrator's word; up to there is ours.
fn use_all_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Runs a client command.
pub(crate) fn client<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    use_one_cryptography()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "cannot start the runtime")?
        .block_on(work)
}

/// rustls takes its default from the process; every part of this one uses aws-lc-rs.
fn use_one_cryptography() -> Result<(), Failure> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Failure::new("cryptography was set up twice; this is a bug"))
}

/// `HOSTLER_LOG` sets the level (`warn`, `info`, `hostler_host=debug`), `HOSTLER_LOG_FORMAT=json`
/// the form for machines.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("HOSTLER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var("HOSTLER_LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().init();
    } else {
        use std::io::IsTerminal;
        let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        log.with_ansi(ansi).init();
    }
}

/// A token that the first SIGINT or SIGTERM cancels; a second signal ends the process at once.
pub(crate) fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).doing(|| "cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).doing(|| "cannot listen for SIGTERM")?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        for polite in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if polite {
                tracing::info!("stopping; once more ends it at once");
                told.cancel();
            }
        }
        output::progress("ended at once");
        std::process::exit(1);
    });
    Ok(stop)
}
