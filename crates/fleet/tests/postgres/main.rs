//! The same promises as in `tests/it`, and the same tests, on a PostgreSQL server; and what only
//! books that replicas share have to promise.

/// On which database a test's books are.
const ON_POSTGRES: bool = true;

#[path = "../it/audit.rs"]
mod audit;
#[path = "../it/cluster.rs"]
mod cluster;
#[path = "../it/desk.rs"]
mod desk;
#[path = "../it/enrolment.rs"]
mod enrolment;
#[path = "../it/entries.rs"]
mod entries;
#[path = "../it/guard.rs"]
mod guard;
#[path = "../it/hosts.rs"]
mod hosts;
#[path = "../it/identity.rs"]
mod identity;
#[path = "../it/isolation.rs"]
mod isolation;
#[path = "../it/members.rs"]
mod members;
#[path = "../it/monitor.rs"]
mod monitor;
#[path = "../it/placement.rs"]
mod placement;
#[path = "../it/power_cut.rs"]
mod power_cut;
mod redis;
#[path = "../it/redis_server.rs"]
mod redis_server;
mod replicas;
mod server;
#[path = "../it/snapshots.rs"]
mod snapshots;
#[path = "../it/standin.rs"]
mod standin;
#[path = "../it/storage.rs"]
mod storage;
#[path = "../it/streams.rs"]
mod streams;
#[path = "../it/token_keys.rs"]
mod token_keys;
#[path = "../it/users.rs"]
mod users;
#[path = "../it/vms.rs"]
mod vms;
#[path = "../it/watch.rs"]
mod watch;
