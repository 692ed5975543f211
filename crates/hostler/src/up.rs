//! `hostler up`: a control plane and a host on this machine, enrolled to each other.
//!
//! Both live in this process and still meet only at their doors: the host enrols with a one-time
//! token and a certificate request, as a host at the other end of the world would. When it ends it
//! takes its VMs with it (docs/decisions/005-up-takes-its-vms-with-it.md).

use std::path::Path;
use std::time::Duration;

use hostler_fleet::ApiKey;
use hostler_host::agent::{AgentConfig, ServerTrust};
use hostler_vmm::{Machines, VmState};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::agent::{HostRoom, tell_who_runs_on};
use crate::client::write_private;
use crate::failure::{Doing, Failure};
use crate::options::{ServerSettings, UpSettings};
use crate::server::{Operator, Plane};
use crate::workload::make_passable_dir;
use crate::{output, process};

/// How long a guest has to shut down when all of it ends.
const GUEST_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(settings: UpSettings) -> Result<(), Failure> {
    let stop = process::stop_on_signal()?;
    // Before the control plane makes it for itself alone.
    make_passable_dir(&settings.data_dir)?;
    let plane = Plane::open(ServerSettings::for_up(&settings)).await?;
    let (server, operator) = (plane.url(), plane.operator());
    let machines_url = Url::parse(&plane.machines_url).doing(|| "the machines' door has no URL")?;
    let env = settings.data_dir.join("env");
    write_env(
        &env,
        &plane.url(),
        &settings.data_dir,
        plane.first_key.as_ref(),
        &operator,
    )
    .await?;
    plane.admit_first_key().await?;
    let ca = plane.ca_pem().unwrap_or_default().to_owned();
    let plane_stop = CancellationToken::new();
    let plane = tokio::spawn(plane.serve(plane_stop.clone()));

    // Whatever happens to the host, the control plane ends in order.
    let ended = run_host(settings, &server, machines_url, ca, &operator, &env, stop).await;
    plane_stop.cancel();
    plane.await.doing(|| "the control plane broke")?;
    ended
}

async fn run_host(
    settings: UpSettings,
    server: &str,
    machines_url: Url,
    ca: String,
    operator: &Operator,
    env: &Path,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let data_dir = settings.data_dir.join("agent");
    let machines = settings.machines.open(&data_dir).await?;
    let server_url = Url::parse(server).doing(|| "the people's door has no URL")?;
    let address = settings.host_listen.to_string();
    let mut config = AgentConfig::new(server_url, ServerTrust::CaPem(ca), address, data_dir);
    // Both doors are this process's; they may be elsewhere than the last time.
    config.machines_url = Some(machines_url);
    let token = Box::pin(operator.announce_host());
    let (listen, socket) = (settings.host_listen, &settings.workload_socket);
    let room = HostRoom::open(config, machines.clone(), listen, socket, Some(token)).await?;
    output::line(format!("ready: host {} of {server}", room.host_id()));
    room.tell_of_socket();
    output::line(format!("for the client commands: . {}", env.display()));

    let host_stop = CancellationToken::new();
    let mut host = tokio::spawn(room.serve(host_stop.clone()));
    let early = tokio::select! {
        () = stop.cancelled() => None,
        ended = &mut host => Some(ended),
    };
    if !settings.keep_vms {
        stop_all(&machines).await;
    }
    host_stop.cancel();
    let ended = match early {
        Some(ended) => ended,
        None => host.await,
    };
    tell_who_runs_on(&machines).await;
    ended.doing(|| "the host broke")?
}

/// Stops every VM, all at the same time.
async fn stop_all(machines: &Machines) {
    let stopping = machines
        .list()
        .await
        .into_iter()
        .filter(|vm| vm.state == VmState::Running);
    futures::future::join_all(stopping.map(async |vm| {
        tracing::info!(vm = %vm.name, "stopping");
        if let Err(error) = machines.stop(vm.name.as_str(), GUEST_PATIENCE).await {
            tracing::error!(vm = %vm.name, %error, "could not be stopped");
        }
    }))
    .await;
}

/// Writes what client commands need as lines for a shell. A key is made when there is none that
/// could be written down: the server keeps only hashes.
async fn write_env(
    path: &Path,
    server: &str,
    data_dir: &Path,
    first_key: Option<&ApiKey>,
    operator: &Operator,
) -> Result<(), Failure> {
    let ca = data_dir.join("server/ca.pem");
    let ca = ca
        .canonicalize()
        .doing(|| format!("cannot find {}", ca.display()))?;
    let token = match first_key {
        Some(key) => key.reveal().to_owned(),
        None => match saved_token(path) {
            Some(token) => token,
            None => operator
                .admin_key("hostler up")
                .await?
                .expose_secret()
                .to_owned(),
        },
    };
    let text = format!(
        "export HOSTLER_SERVER={server}\nexport HOSTLER_TOKEN={token}\nexport HOSTLER_CA={}\n",
        quoted(&ca)
    );
    write_private(path, text.as_bytes()).doing(|| format!("cannot write {}", path.display()))
}

fn saved_token(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let token = text
        .lines()
        .find_map(|line| line.strip_prefix("export HOSTLER_TOKEN="))?;
    token.starts_with("hst_").then(|| token.to_owned())
}

/// A path as one word of a POSIX shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_whatever_is_in_it() {
        assert_eq!(quoted(Path::new("/a b/$c")), "'/a b/$c'");
        assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
    }

    #[test]
    fn only_a_key_is_taken_from_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "export HOSTLER_TOKEN=hst_1\n").expect("written");
        assert_eq!(saved_token(file.path()).as_deref(), Some("hst_1"));
        std::fs::write(file.path(), "export HOSTLER_TOKEN=$(rm)\n").expect("written");
        assert_eq!(saved_token(file.path()), None);
        assert_eq!(saved_token(Path::new("/nonexistent")), None);
    }
}
