//! What the desk promises, with real guests: each test has a data directory of its own and shares
//! only the cache of packages.

mod firecracker;
mod firecracker_api;
mod firecracker_faults;
mod firecracker_network;
mod firecracker_snapshots;
mod guest;
mod images;
mod jail;
mod life;
mod misbehaviour;
mod mounts;
mod network;
mod refusals;
mod restart;
mod snapshot_faults;
mod snapshots;
mod support;
