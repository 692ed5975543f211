//! What can be asked of a fleet: a file for each thing, each beginning with the block that defines
//! its operations.

mod api_keys;
mod audit;
mod bundle;
mod drain;
mod enrolment;
mod entries;
mod errors;
mod heartbeat;
mod hosts;
mod login;
mod members;
mod page;
mod relay;
mod rotation;
mod status;
mod tags;
mod teams;
mod token_keys;
mod users;
mod vms;
mod watch;
mod workloads;

use std::sync::Arc;

use hostler_operations::RegistryBuilder;

use crate::fleet::Fleet;

/// Adds all operations on this fleet to a registry.
#[must_use]
pub fn mount(builder: RegistryBuilder, fleet: &Arc<Fleet>) -> RegistryBuilder {
    let hosts = enrolment::operations(hosts::operations());
    let hosts = heartbeat::operations(drain::operations(hosts));
    let hosts = watch::of_hosts(tags::operations(hosts));
    let vms = watch::of_vms(vms::snapshots::of_vms(vms::operations()));
    builder
        .service(hosts, fleet)
        .service(vms, fleet)
        .service(vms::snapshots::operations(), fleet)
        .service(relay::images(), fleet)
        .service(relay::kernels(), fleet)
        .service(relay::host(), fleet)
        .service(relay::metrics(), fleet)
        .service(api_keys::operations(), fleet)
        .service(members::of_teams(teams::operations()), fleet)
        .service(login::of_users(users::operations()), fleet)
        .service(login::operations(), fleet)
        .service(audit::operations(), fleet)
        .service(status::operations(), fleet)
        .service(bundle::operations(), fleet)
        .service(workloads::of_entries(entries::operations()), fleet)
        .service(rotation::operations(workloads::operations()), fleet)
        .service(token_keys::operations(), fleet)
}
