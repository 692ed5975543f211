//! What a host promises, over real sockets, real TLS and real machines.

mod certs;
mod control_plane;
mod desk;
mod door;
mod enrolment;
mod images;
mod life;
mod operations;
mod support;
mod vms;
