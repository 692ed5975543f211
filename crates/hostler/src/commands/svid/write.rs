//! `hostler svid write`: an identity in files, for programs like nginx.
//!
//! Four files are kept: `svid.pem` (the chain, leaf first), `svid.key` (its key, mode 0600),
//! `svid-and-key.pem` (both in one, mode 0600) and `bundle.pem` (the roots of our trust domain).
//! They are replaced together (see [`generations`]), and then the command to reload runs. What the
//! Workload API takes back, or nobody renews in time, is removed, so that a program that is started
//! later does not present it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use hostler_identity::{WorkloadSvid, certificates_pem, wait_until};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{From, generations};
use crate::failure::{Doing, Failure};
use crate::output;

const CHAIN: &str = "svid.pem";
const KEY: &str = "svid.key";
const BOTH: &str = "svid-and-key.pem";
const BUNDLE: &str = "bundle.pem";

#[derive(Args)]
pub(crate) struct Write {
    /// The directory of svid.pem, svid.key, svid-and-key.pem and bundle.pem; it is made if need be
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Write once and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    from: From,
    /// A command to run after each change, with its arguments, without a shell; the last option
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    reload: Vec<String>,
}

pub(super) async fn run(options: Write) -> Result<(), Failure> {
    let mut stream = options.from.open().await?;
    std::fs::create_dir_all(&options.dir)
        .doing(|| format!("cannot make {}", options.dir.display()))?;
    loop {
        let ends = match stream.current() {
            Ok(given) if given.svid.not_after() > Timestamp::now() => {
                put(&options.dir, &given)?;
                let (id, until) = (given.svid.id(), given.svid.not_after());
                output::progress(format!("wrote {id}, valid until {until}"));
                Some(until)
            }
            given => {
                take_away(&options.dir)?;
                let reason = given.err().map(|reason| reason.to_string());
                let reason = reason.unwrap_or_else(|| "it expired".to_owned());
                output::progress(format!("removed the identity: {reason}"));
                None
            }
        };
        reload(&options.reload).await;
        if options.once {
            return Ok(());
        }
        let expiry = async {
            match ends {
                Some(ends) => wait_until(ends).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = stream.changed() => changed?,
            () = expiry => {}
        }
    }
}

fn put(dir: &Path, given: &WorkloadSvid) -> Result<(), Failure> {
    let roots = given.bundles.get(given.svid.id().trust_domain());
    let roots = certificates_pem(roots.unwrap_or_default());
    let chain = certificates_pem(given.svid.chain());
    let key = given.key_pem.expose_secret();
    // Wiped when it is dropped, and made in one piece: a half of it would be left behind.
    let both = SecretString::from([&*chain, key].concat());
    let these = [
        (BUNDLE, &*roots, 0o644),
        (CHAIN, &chain, 0o644),
        (KEY, key, 0o600),
        (BOTH, both.expose_secret(), 0o600),
    ];
    generations::replace(dir, &these).doing(|| format!("cannot write to {}", dir.display()))
}

fn take_away(dir: &Path) -> Result<(), Failure> {
    generations::take_away(dir, &[BUNDLE, CHAIN, KEY, BOTH], BUNDLE)
        .doing(|| format!("cannot remove the identity from {}", dir.display()))
}

/// Runs the command. That it failed is said and is no reason to end: the files are right, and the
/// next change runs it again.
async fn reload(command: &[String]) {
    let Some((program, arguments)) = command.split_first() else {
        return;
    };
    let ended = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .await;
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => output::progress(format!("{program} failed: {status}")),
        Err(error) => output::progress(format!("cannot run {program}: {error}")),
    }
}
