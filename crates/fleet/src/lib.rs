//! Many hosts: which machines there are, whose they are, what runs where, and who may say so.
//!
//! A machine becomes a host by a one-time token, proves from then on who it is, and answers a roll
//! call; VMs are placed on hosts that have room, and every operation on one goes to its host over
//! mutual TLS, to that host and no other. This room keeps the books. It opens no listening socket:
//! its operations are mounted in a [`Registry`](hostler_operations::Registry), and whoever carries
//! requests in asks [`Fleet::identify`] whose they are.
//!
//! ```no_run
//! use hostler_authority::Authority;
//! use hostler_fleet::{Config, Database, Fleet, mount};
//! use hostler_operations::Registry;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let authority = Authority::open("data/authority".as_ref(), "hostler.internal".try_into()?)?;
//! let source = authority.source(&"spiffe://hostler.internal/control-plane/1".parse()?)?;
//! let config = Config {
//!     database: Database::Sqlite("data/fleet.db".into()),
//!     machines_url: "https://127.0.0.1:8444".into(),
//!     replica_url: "https://127.0.0.1:8444".into(),
//!     redis: None,
//!     federation: Vec::new(),
//! };
//! let (fleet, first_key) = Fleet::open(config, authority, source).await?;
//! if let Some(key) = first_key {
//!     eprintln!("the first admin API key, shown this once: {}", key.reveal());
//!     fleet.admit_first_key(&key).await?;
//! }
//! let registry = mount(Registry::builder(), &fleet).build()?;
//! # Ok(()) }
//! ```
//!
//! # The rooms behind the door
//!
//! | module | what it does |
//! |---|---|
//! | `operations` | what can be asked for, one file for each thing |
//! | `store` | the tables and their statements |
//! | `secrets` | registration tokens, host and user tokens, API keys, passwords |
//! | `passwords`, `attempts` | what a login costs, and how often it may be tried |
//! | `enrolment`, `placement`, `reconcile` | rules without clock, socket or storage |
//! | [`chain`] | how a copy of the audit trail is checked |
//! | `identify` | whose a credential is |
//! | `beats` | heartbeats, noted many at a time |
//! | `roll` | who may come through the machines' door, and stay inside |
//! | `connector` | the way to a host's door |
//! | `events` | what happens to hosts and VMs, for those who watch |
//! | `monitor` | notices who has fallen silent |
//! | `replicas` | what servers on the same books must know of each other |
//! | `shared_keys` | keys that all of them have |

#![warn(missing_docs)]

pub mod chain;

mod attempts;
mod beats;
mod clock;
mod codes;
mod config;
mod connector;
mod enrolment;
mod events;
mod fault;
mod fleet;
mod identify;
mod ids;
mod key_rotation;
mod model;
mod monitor;
mod operations;
mod passwords;
mod placement;
mod reach;
mod reconcile;
mod redis_link;
mod replicas;
mod roll;
mod scopes;
mod secrets;
mod shared_keys;
mod signed_for;
mod store;
mod words;

pub use config::{Config, Database, DatabaseRefused};
pub use enrolment::{Cidr, CidrRefused, REGISTRATION_TOKEN_LIFE};
pub use events::Change;
pub use fleet::{Fleet, OpenError};
pub use identify::IdentifyError;
pub use ids::{EntryId, HostId, KeyId, TeamId, UserId, VmId};
pub use model::{
    ApiKeyInfo, Entry, Host, HostAddress, HostStatus, HostType, Member, Membership, Mount,
    NameRefused, Observed, PortForward, Protocol, Role, Selector, Tag, Team, User, UserName, Vm,
    VmName, VmSpec, VmState,
};
pub use monitor::{LOOK_EVERY, SILENT_AFTER};
pub use operations::mount;
pub use placement::{CPU_OVERCOMMIT, Policy};
pub use reach::{Principal, Seat, Sight};
pub use redis_link::{RedisUrl, RedisUrlRefused};
pub use scopes::{ATTACHED_CALL, KeyScope};
pub use secrets::{ApiKey, HOST_TOKEN_LIFE, KeyUnusable, RegistrationToken, USER_TOKEN_LIFE};
pub use shared_keys::SharedKeys;
pub use store::{OpenStoreError, PostgresUrl, PostgresUrlRefused, StoreError};
