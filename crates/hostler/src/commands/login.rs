//! `hostler login`: saves where the control plane is and the key to it, once they are known to work.

use clap::Args;

use crate::client::{Api, Connect, Known, config_path};
use crate::failure::{Doing, Failure};
use crate::output;

#[derive(Args)]
pub(crate) struct Login {
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(login: Login) -> Result<(), Failure> {
    let mut connect = login.connect;
    if let Some(ca) = connect.ca.take() {
        // Saved for commands that run in other directories.
        let absolute = ca
            .canonicalize()
            .doing(|| format!("cannot read {}", ca.display()))?;
        connect.ca = Some(absolute);
    }
    let known = Known::find(&connect)?;
    let path = config_path()?;
    let copy = Known {
        server: known.server.clone(),
        token: known.token.clone(),
        ca: known.ca.clone(),
    };
    Api::new(copy)?.get(&["v1", "status"]).send().await?;
    known.save(&path)?;
    output::progress(format!("saved to {}", path.display()));
    Ok(())
}
