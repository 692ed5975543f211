//! One host: a machine that runs microVMs for a control plane, or for an operator of its own.
//!
//! A [`Host`] wraps the machines of `hostler-vmm`. [`mount`] offers them as operations (`vms/*`,
//! `images/*`, `kernels/*`, `host/*`), which the host door serves over mutual TLS. An
//! [`Agent`](agent::Agent) enrols the host at a control plane and keeps it enrolled: it owns the
//! identity that the host door presents, renews it, and sends heartbeats. Without an agent the
//! same operations serve a standalone host.
//!
//! ```no_run
//! use std::sync::Arc;
//! use hostler_host::{Host, agent::{Agent, AgentConfig, ServerTrust}, mount};
//! use hostler_operations::Registry;
//! use hostler_vmm::{Config, Machines};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let data = "/var/lib/hostler";
//! let host = Arc::new(Host::new(Machines::open(Config::new(data)).await?));
//! let operations = mount(Registry::builder(), &host).build()?;
//!
//! let trust = ServerTrust::CaFile("ca.pem".into());
//! let server = "https://control.example:8443".parse()?;
//! let mut config = AgentConfig::new(server, trust, "10.0.0.7:9443", data);
//! config.register = Some("the registration token".into());
//! let agent = Agent::start(config, host).await?;
//!
//! let tls = hostler_identity::server_config(agent.source(), agent.callers());
//! // ... serve `operations` with `tls`, and meanwhile:
//! let ended = agent.run(CancellationToken::new()).await;
//! # drop((operations, tls, ended)); Ok(()) }
//! ```

#![warn(missing_docs)]

pub mod agent;
mod host;
mod operations;

pub use host::Host;
pub use operations::mount;
