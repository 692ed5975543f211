//! Firecracker: runs VMs where KVM works, in a process that does nothing else and is easily
//! confined.
//!
//! A VM is one Firecracker process in a session of its own. It is told over its API ([`api`]) what
//! machine to be ([`machine`]), and then to run. What it is given, and where, depends on its seat
//! ([`seat`]): in the open, or in a jail ([`jail`]) that holds nothing but the VM's own files.
//! Whether it works on this host is found out by booting something ([`probe`]), and how one ended
//! is told by its exit code or its log ([`ending`]). It can be written to files and read back
//! ([`saved`]).

pub(crate) mod api;
mod cgroup;
mod ending;
pub(crate) mod jail;
mod machine;
pub(crate) mod probe;
mod saved;
mod seat;
mod users;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::process::Child;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use self::api::{ANSWER, Api};
use self::jail::Jailer;
use self::machine::{Instance, State};
use self::probe::Found;
use self::seat::Seat;
use super::{
    Blueprint, Bus, Capabilities, Driver, Event, GuestEndpoint, LaunchError, Launched, Link,
    LinkError, Prepared, SaveError, cpuinfo,
};
use crate::dialogue::Broken;
use crate::fault;
use crate::files::{self, Context as _};
use crate::guest::protocol::VSOCK_PORT;
use crate::kernel_file::KernelFormat;
use crate::lifecycle::Condition;
use crate::model::{DriverKind, PortForward, VmId};
use crate::process::{Birth, Process, Watched};
use crate::tool;

/// How long Firecracker may take to come up. It takes milliseconds on an idle host.
const COME_UP: Duration = Duration::from_secs(60);

/// How long a Firecracker that we knew before may take to answer again.
const RECONNECT: Duration = Duration::from_secs(5);

/// How long the exit code of a process that has ended may be on its way.
const EXIT_CODE: Duration = Duration::from_secs(5);

/// Firecracker, as it works on this host.
pub(crate) struct Firecracker {
    found: Found,
    jailer: Option<Jailer>,
}

impl Firecracker {
    pub(crate) fn new(found: Found, jailer: Option<Jailer>) -> Self {
        Self { found, jailer }
    }

    pub(crate) fn jailer(&self) -> Option<&Jailer> {
        self.jailer.as_ref()
    }

    /// Starts the process in a session of its own, its console going to the VM's log.
    fn spawn(&self, vm: &Blueprint, seat: &Seat) -> Result<Child, LaunchError> {
        let console = append_to(&vm.console)?;
        let _ = fs::remove_file(seat::words(vm));
        let words = files::create_private(&seat::words(vm))?;
        // `setsid` becomes the program: the child that we spawn leads no group yet, so it need not
        // fork.
        tool::secluded("setsid")
            .args(&seat.command)
            .current_dir("/")
            .stdout(console)
            .stderr(words)
            .spawn()
            .map_err(|source| LaunchError::Spawn {
                program: "setsid".into(),
                source,
            })
    }

    /// Waits until the API answers, or the process has ended.
    async fn come_up(
        &self,
        vm: &Blueprint,
        seat: &Seat,
        child: &mut Child,
    ) -> Result<(Api, Birth, Watched), LaunchError> {
        let deadline = Instant::now() + COME_UP;
        let pid = self.settle(vm, seat, child, deadline).await?;
        let birth = pid.and_then(Birth::of);
        let Some(birth) = birth else {
            return Err(self.refusal(vm, seat, child).await);
        };
        let api = Api::new(&vm.control_socket);
        while !answers_as(&api, vm.id).await? {
            if matches!(birth.is_alive(), Ok(false)) {
                return Err(self.refusal(vm, seat, child).await);
            }
            if Instant::now() >= deadline {
                return Err(self.slow());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        match Watched::open(&birth) {
            Ok(Some(watched)) => Ok((api, birth, watched)),
            _ => Err(self.refusal(vm, seat, child).await),
        }
    }

    /// Makes a process that is the VM's machine and does not run: a new one, or one that was saved
    /// to a directory. On an error there is none.
    async fn set_up(&self, vm: &Blueprint, saved: Option<&Path>) -> Result<Ready, LaunchError> {
        let seat = Seat::prepare(&self.found.program, self.jailer.as_ref(), vm)?;
        let mut child = self.spawn(vm, &seat)?;
        let outcome = async {
            let (api, birth, watched) = self.come_up(vm, &seat, &mut child).await?;
            match saved {
                None => {
                    for request in seat.machine.requests() {
                        self.demand(&api, ANSWER, request).await?;
                    }
                }
                Some(saved) => {
                    let seen = seat.lend_saved(saved)?;
                    self.demand(&api, saved::LONG, saved::load(&seen)).await?;
                }
            }
            Ok((api, birth, watched))
        };
        match outcome.await {
            Ok((api, birth, watched)) => {
                let process = Process {
                    birth,
                    control_socket: vm.control_socket.clone(),
                    guest: self.guest(vm.guest_socket.clone()),
                };
                let child = seat.pid_file.is_none().then_some(child);
                let link = FirecrackerLink::new(api, watched, seat::log(vm), child);
                Ok(Ready { process, link })
            }
            Err(error) => {
                // It may have ended already; what counts is that it has when we return.
                let _ = child.kill().await;
                seat.end_what_is_left(vm.id).await;
                jail::clear(&vm.directory);
                Err(error)
            }
        }
    }

    /// The process that will be the VM: the child, or the one that the jailer made before it ended.
    async fn settle(
        &self,
        vm: &Blueprint,
        seat: &Seat,
        child: &mut Child,
        deadline: Instant,
    ) -> Result<Option<i32>, LaunchError> {
        let Some(pid_file) = &seat.pid_file else {
            return Ok(child.id().and_then(|pid| pid.try_into().ok()));
        };
        match tokio::time::timeout_at(deadline, child.wait()).await {
            Err(_) => Err(self.slow()),
            Ok(Ok(status)) if status.success() => {
                let pid = fs::read_to_string(pid_file).ok();
                Ok(pid.and_then(|pid| pid.trim().parse().ok()))
            }
            Ok(_) => Err(self.refusal(vm, seat, child).await),
        }
    }

    async fn demand(
        &self,
        api: &Api,
        limit: Duration,
        request: api::Ask,
    ) -> Result<(), LaunchError> {
        match api.ask_within(limit, request).await {
            Ok(_) => Ok(()),
            Err(LinkError::Refused { command, message }) => Err(LaunchError::Refused {
                program: self.found.program.clone(),
                message: format!("{command}: {message}"),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn slow(&self) -> LaunchError {
        LaunchError::Slow {
            program: self.found.program.clone(),
            limit: COME_UP,
        }
    }

    /// Why the process ended at once: what it said, and its exit code.
    async fn refusal(&self, vm: &Blueprint, seat: &Seat, child: &mut Child) -> LaunchError {
        let said = fs::read_to_string(seat::words(vm)).unwrap_or_default();
        let said: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let mut message = said[said.len().saturating_sub(3)..].join("; ");
        if message.is_empty() {
            "it ended without a word".clone_into(&mut message);
        }
        let status = timeout(EXIT_CODE, child.wait()).await;
        let status = status.ok().and_then(Result::ok);
        let ended = match status.filter(|status| seat.pid_file.is_none() || !status.success()) {
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Some(ending::in_words(code)),
                (None, signal) => signal.map(|signal| format!("signal {signal}")),
            },
            // The jailer's own success says nothing of the process that it made.
            None => ending::logged_code(&ending::tail(&seat::log(vm))).map(ending::in_words),
        };
        if let Some(ended) = ended {
            message.push_str(&format!(" ({ended})"));
        }
        LaunchError::Refused {
            program: self.found.program.clone(),
            message,
        }
    }
}

/// A machine that does not run yet.
struct Ready {
    process: Process,
    link: FirecrackerLink,
}

impl Ready {
    fn launched(self) -> Launched {
        Launched {
            process: self.process,
            link: Box::new(self.link),
        }
    }

    /// Ends the process.
    async fn give_up(self, vm: &Blueprint) {
        let _ = self.link.watched.signal(Signal::KILL);
        self.link.watched.ended().await;
        jail::clear(&vm.directory);
    }
}

/// A process that is made when its VM has its disk.
struct Postponed {
    driver: Arc<Firecracker>,
    vm: Blueprint,
}

#[async_trait]
impl Prepared for Postponed {
    async fn load(&mut self, _saved: &Path) -> Result<(), LaunchError> {
        Ok(())
    }

    async fn complete(self: Box<Self>, saved: &Path) -> Result<Launched, LaunchError> {
        Ok(self.driver.set_up(&self.vm, Some(saved)).await?.launched())
    }

    async fn give_up(self: Box<Self>) {}
}

/// The log of a process that was launched before: in the VM's directory, which the directory of
/// its sockets leads to when it is another one.
fn log_of(process: &Process) -> PathBuf {
    let sockets = process.control_socket.parent().unwrap_or(Path::new("/"));
    let directory = fs::read_link(sockets.join(crate::layout::OWNER));
    directory.as_deref().unwrap_or(sockets).join(seat::LOG)
}

/// Whether the API answers, as this VM; false while it is not there.
async fn answers_as(api: &Api, id: VmId) -> Result<bool, LinkError> {
    match instance(api, api::ANSWER).await {
        Ok(instance) if instance.id == id.to_string() => Ok(true),
        Ok(instance) => Err(stranger(api, instance)),
        Err(LinkError::Broken(Broken::Socket { .. } | Broken::Closed { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn instance(api: &Api, limit: Duration) -> Result<Instance, LinkError> {
    let answer = api.ask_within(limit, machine::describe()).await?;
    Instance::read(&answer).ok_or_else(|| LinkError::Unknown {
        command: "GET /",
        answer: answer.to_string().chars().take(200).collect(),
    })
}

fn stranger(api: &Api, found: Instance) -> LinkError {
    LinkError::Stranger {
        socket: api.socket().to_owned(),
        found: found.id,
    }
}

fn append_to(path: &Path) -> Result<File, LaunchError> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    Ok(file.context("write", path)?)
}

#[async_trait]
impl Driver for Firecracker {
    fn kind(&self) -> DriverKind {
        DriverKind::Firecracker
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            user_network: false,
            port_forwards: false,
            mounts: false,
            snapshots: true,
            hardware_acceleration: true,
        }
    }

    fn bus(&self) -> Bus {
        Bus::MmioVsock
    }

    fn guest(&self, socket: PathBuf) -> GuestEndpoint {
        GuestEndpoint::Vsock {
            path: socket,
            port: VSOCK_PORT,
        }
    }

    fn boots(&self, format: KernelFormat) -> bool {
        match format {
            KernelFormat::Elf => cfg!(target_arch = "x86_64"),
            KernelFormat::Pe => cfg!(target_arch = "aarch64"),
            KernelFormat::BzImage => false,
        }
    }

    fn tap_owner(&self, vm: VmId) -> Option<u32> {
        // Should there be none to have, the launch says why.
        self.jailer
            .as_ref()
            .and_then(|jailer| jailer.user_of(vm).ok())
    }

    fn forget(&self, vm: VmId) {
        if let Some(jailer) = &self.jailer {
            jailer.forget(vm);
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.found.program.clone()]
    }

    /// Firecracker has no command line for a machine but a file that describes it.
    fn bare_command(&self, vm: &Blueprint) -> Vec<OsString> {
        let mut line = vec![self.found.program.clone().into_os_string()];
        line.extend(["--no-api", "--id"].map(OsString::from));
        line.push(vm.id.to_string().into());
        line
    }

    async fn launch(&self, vm: &Blueprint) -> Result<Launched, LaunchError> {
        let ready = self.set_up(vm, None).await?;
        fault::point("start.spawned");
        match self.demand(&ready.link.api, ANSWER, machine::start()).await {
            Ok(()) => Ok(ready.launched()),
            Err(error) => {
                ready.give_up(vm).await;
                Err(error)
            }
        }
    }

    fn memory_form(&self, vm: &Blueprint) -> Result<BTreeMap<String, String>, LaunchError> {
        let machine = seat::machine_of(vm, self.jailer.is_some())?;
        let version = &self.found.version;
        Ok(saved::form_of_machine(version, &machine, &cpuinfo()))
    }

    /// Begins nothing: a memory names its VM's disk, and loading it opens what is there.
    async fn prepare(
        self: Arc<Self>,
        vm: Blueprint,
        _disk: &Path,
    ) -> Result<Box<dyn Prepared>, LaunchError> {
        Ok(Box::new(Postponed { driver: self, vm }))
    }

    async fn reconnect(&self, id: VmId, process: &Process) -> Result<Box<dyn Link>, LinkError> {
        let api = Api::new(&process.control_socket);
        let instance = instance(&api, RECONNECT).await?;
        if instance.id != id.to_string() {
            return Err(stranger(&api, instance));
        }
        let unknown = |answer: &str| LinkError::Unknown {
            command: "GET /",
            answer: answer.to_owned(),
        };
        // Its start was interrupted, and nobody will go on with it.
        if instance.state == State::NotStarted {
            return Err(unknown("Not started"));
        }
        let watched = Watched::open(&process.birth).ok().flatten();
        let watched = watched.ok_or_else(|| unknown("the process has ended"))?;
        Ok(Box::new(FirecrackerLink::new(
            api,
            watched,
            log_of(process),
            None,
        )))
    }
}

/// The conversation with one Firecracker.
struct FirecrackerLink {
    api: Api,
    watched: Watched,
    log: PathBuf,
    /// Present when it is our own child, which tells us its exit code.
    child: Mutex<Option<Child>>,
    /// Whether its end was told.
    told: AtomicBool,
}

impl FirecrackerLink {
    fn new(api: Api, watched: Watched, log: PathBuf, child: Option<Child>) -> Self {
        Self {
            api,
            watched,
            log,
            child: Mutex::new(child),
            told: AtomicBool::new(false),
        }
    }

    /// Has a snapshot made. There is nothing to say about one that was.
    async fn create(&self, create: api::Ask) -> Result<(), LinkError> {
        let command = create.command;
        match self.api.ask_within(saved::LONG, create).await? {
            serde_json::Value::Null => Ok(()),
            other => Err(LinkError::Unknown {
                command,
                answer: other.to_string().chars().take(200).collect(),
            }),
        }
    }

    async fn exit_code(&self) -> Option<i32> {
        let mut child = self.child.lock().await;
        let status = timeout(EXIT_CODE, child.as_mut()?.wait()).await;
        status.ok()?.ok()?.code()
    }
}

#[async_trait]
impl Link for FirecrackerLink {
    async fn add_forward(&self, forward: &PortForward) -> Result<(), LinkError> {
        Err(LinkError::Refused {
            command: "a port forward",
            message: format!(
                "Firecracker has no network in user mode, so nothing can lead {forward}; run the \
                 host with a bridge"
            ),
        })
    }

    async fn remove_forward(&self, _: &PortForward) -> Result<(), LinkError> {
        Ok(())
    }

    async fn forwards(&self) -> Result<Vec<PortForward>, LinkError> {
        Ok(Vec::new())
    }

    async fn pause(&self) -> Result<(), LinkError> {
        self.api.ask(saved::pause()).await.map(drop)
    }

    async fn resume(&self) -> Result<(), LinkError> {
        self.api.ask(machine::resume()).await.map(drop)
    }

    async fn condition(&self) -> Result<Condition, LinkError> {
        Ok(match instance(&self.api, ANSWER).await?.state {
            State::Running => Condition::Running,
            State::Paused => Condition::Halted,
            // Nobody connects to one that was never started; see `reconnect`.
            State::NotStarted => Condition::Loading,
            State::Other(word) => Condition::Stuck {
                reason: format!("Firecracker says {word}"),
            },
        })
    }

    async fn memory_form(&self) -> Result<BTreeMap<String, String>, LinkError> {
        let version = self.api.ask(saved::version()).await?;
        let configuration = self.api.ask(saved::configuration()).await?;
        saved::form_of_process(&version, &configuration, &cpuinfo())
    }

    async fn save(&self, directory: &Path) -> Result<(), SaveError> {
        let vm = self.log.parent().unwrap_or(Path::new("/"));
        let Some(jail) = saved::jail_of(vm) else {
            let text = directory.to_str().ok_or_else(|| LinkError::Unspeakable {
                path: directory.to_owned(),
            })?;
            self.create(saved::create_in(text)).await?;
            return Ok(saved::own(directory)?);
        };
        let taken = match self.create(saved::create_in_jail()).await {
            Ok(()) => saved::take_out(&jail, directory).map_err(SaveError::from),
            Err(error) => Err(error.into()),
        };
        saved::clear(&jail);
        taken
    }

    async fn event(&self) -> Option<Event> {
        // Firecracker tells nothing by itself but its end.
        self.watched.ended().await;
        if self.told.load(Ordering::Relaxed) {
            return None;
        }
        let code = self.exit_code().await;
        let log = self.log.clone();
        let log = crate::blocking::run(move || ending::tail(&log)).await;
        if self.told.swap(true, Ordering::Relaxed) {
            return None;
        }
        ending::understand(code, &log).map(Event::Ending)
    }
}
