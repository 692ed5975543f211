//! `hostler agent`: the assembly of a host. Its machines, its tie to the control plane, its door.

pub(crate) mod install;
mod standalone;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use hostler_gateway::{
    AuthError, Credentials, Door, DoorLimits, Doorway, HttpAdapter, IdentityProvider,
};
use hostler_host::Host;
use hostler_host::agent::{Agent, AgentConfig, Ended, ServerTrust, StartError};
use hostler_identity::{Certificates, HealthListener, server_config};
use hostler_operations::{Identity, Registry};
use hostler_vmm::Machines;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::failure::{Doing, Failure};
use crate::options::{AgentMode, AgentSettings, Enrolment, Trust};
use crate::workload::{SocketPlace, WorkloadSocket};
use crate::{output, process};
use standalone::StandaloneRoom;

/// Runs until a signal ends it, or the control plane does not know this host any more.
pub(crate) async fn run(settings: AgentSettings) -> Result<(), Failure> {
    let stop = process::stop_on_signal()?;
    let gone = CancellationToken::new();
    let _gone_at_the_end = gone.clone().drop_guard();
    if let Some(address) = settings.health_listen {
        let probes = HealthListener::bind(address);
        let probes = probes
            .await
            .doing(|| format!("cannot listen for probes on {address}"))?;
        let stop = stop.clone();
        tokio::spawn(probes.serve(move || !stop.is_cancelled(), gone));
    }
    match settings.mode {
        AgentMode::Standalone(files) => {
            // Before anything is done: files that are wrong are the commonest mistake.
            let certificates = Certificates::files(files).await?;
            let machines = settings.machines.open(&settings.data_dir).await?;
            let opened = StandaloneRoom::open(&certificates, machines.clone(), settings.listen);
            let room = opened.await?;
            output::line(format!("ready: host at {}", room.local_addr()));
            room.serve(stop).await;
            tell_who_runs_on(&machines).await;
            Ok(())
        }
        AgentMode::Enrolled(enrolment) => {
            let config = enrolment.agent_config(&settings.data_dir)?;
            let machines = settings.machines.open(&settings.data_dir).await?;
            let socket = &enrolment.workload_socket;
            let opened = HostRoom::open(config, machines.clone(), settings.listen, socket, None);
            let room = opened.await?;
            output::line(format!(
                "ready: host {} at {}",
                room.agent.host_id(),
                room.door.local_addr()
            ));
            room.tell_of_socket();
            let ended = room.serve(stop).await;
            tell_who_runs_on(&machines).await;
            ended
        }
    }
}

/// VMs outlive their daemon; whoever ends it should know.
pub(crate) async fn tell_who_runs_on(machines: &Machines) {
    let vms = machines.list().await.into_iter();
    // One that is paused has its process too.
    let count = vms.filter(|vm| vm.started_at.is_some()).count();
    let these = match count {
        0 => return,
        1 => "1 VM keeps running; the next agent on this data directory takes it over".to_owned(),
        _ => format!(
            "{count} VMs keep running; the next agent on this data directory takes them over"
        ),
    };
    tracing::info!("{these}");
}

impl Enrolment {
    fn agent_config(&self, data_dir: &Path) -> Result<AgentConfig, Failure> {
        let server = Url::parse(&self.server).doing(|| {
            format!(
                "{:?} is no server; give --server https://HOST:PORT",
                self.server
            )
        })?;
        let trust = match &self.trust {
            Trust::CaFile(file) => ServerTrust::CaFile(file.clone()),
            Trust::Pin(pin) => ServerTrust::Pin(pin.parse()?),
            Trust::System => ServerTrust::System,
        };
        let mut config = AgentConfig::new(server, trust, "", data_dir);
        config.address.clone_from(&self.address);
        config.register.clone_from(&self.register);
        Ok(config)
    }
}

/// What a host's door answers.
fn adapter(host: &Arc<Host>, callers: Arc<dyn IdentityProvider>) -> Result<HttpAdapter, Failure> {
    let registry = hostler_host::mount(Registry::builder(), host).build()?;
    let adapter = HttpAdapter::builder(registry, callers)
        .about("Hostler host", env!("CARGO_PKG_VERSION"))
        .build()?;
    Ok(adapter)
}

/// An enrolled host with its door open.
pub(crate) struct HostRoom {
    agent: Agent,
    door: Door,
    socket: Option<WorkloadSocket>,
}

impl HostRoom {
    /// Enrols or resumes, and opens the door. `token` is asked for a registration token when this
    /// machine is not enrolled and none was given.
    pub(crate) async fn open(
        mut config: AgentConfig,
        machines: Machines,
        listen: SocketAddr,
        socket: &SocketPlace,
        token: Option<BoxFuture<'_, Result<SecretString, Failure>>>,
    ) -> Result<Self, Failure> {
        let host = Arc::new(Host::new(machines));
        let adapter = adapter(&host, Arc::new(Callers(Arc::clone(&host))))?;
        // Before the one-time token is spent: an address that is taken is the commonest mistake.
        let doorway = Doorway::bind(listen).await?;
        let waits_for_calls = config.address.is_none();
        let agent = match (Agent::start(config.clone(), Arc::clone(&host)).await, token) {
            (Err(StartError::NotEnrolled { .. }), Some(token)) => {
                config.register = Some(token.await?);
                Agent::start(config, host).await?
            }
            (started, _) => started?,
        };
        let tls = server_config(agent.source(), agent.callers());
        let door = doorway.door(&tls, &adapter, DoorLimits::default());
        let agent = match waits_for_calls {
            true => agent.reached_through_a_connection_of_its_own(on_this_machine(&door)),
            false => agent,
        };
        let socket = WorkloadSocket::open(socket, agent.workloads())?;
        Ok(Self {
            agent,
            door,
            socket,
        })
    }

    /// Says where processes find the Workload API, as a line for a shell.
    pub(crate) fn tell_of_socket(&self) {
        if let Some(socket) = &self.socket {
            let endpoint = socket.endpoint();
            output::line(format!(
                "for local processes: export SPIFFE_ENDPOINT_SOCKET={endpoint}"
            ));
        }
    }

    pub(crate) fn host_id(&self) -> &str {
        self.agent.host_id()
    }

    /// Serves until it is told to stop or has been forgotten.
    pub(crate) async fn serve(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self {
            agent,
            door,
            socket,
        } = self;
        let inner_stop = stop.child_token();
        let serving = tokio::spawn(door.serve(inner_stop.clone()));
        let socket = socket.map(|socket| tokio::spawn(socket.serve(inner_stop.clone())));
        let ended = agent.run(stop).await;
        inner_stop.cancel();
        serving.await.doing(|| "the host door broke")?;
        if let Some(socket) = socket {
            socket.await.doing(|| "the Workload API broke")?;
        }
        match ended {
            Ended::Stopped => Ok(()),
            Ended::Forgotten(forgotten) => Err(forgotten.into()),
            _ => Err(Failure::new("the agent ended; its log says why")),
        }
    }
}

/// Where a door is reached from this machine.
fn on_this_machine(door: &Door) -> SocketAddr {
    let mut address = door.local_addr();
    if address.ip().is_unspecified() {
        let here: IpAddr = match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(here);
    }
    address
}

/// Who calls the host door: its handshake has let in nobody else.
struct Callers(Arc<Host>);

impl IdentityProvider for Callers {
    fn resolve<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>> {
        Box::pin(std::future::ready(Ok(self
            .0
            .identify(credentials.peer.as_ref()))))
    }
}
