//! `hostler tls`: a private authority in files, for hosts without a control plane.
//!
//! Everything that a few machines need to speak mutual TLS with each other: one CA, a server's
//! certificate for each host, and one for the client. Each certificate is an X.509-SVID as well, so
//! that members recognise each other by SPIFFE ID, and curl and browsers by name and address.

mod pki;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand};
use hostler_identity::{TrustDomain, parse_trust_domain};

use crate::failure::{Doing, Failure};
use crate::{files, output};
use pki::{Ca, Pair};

#[derive(Subcommand)]
pub(crate) enum Tls {
    /// Make a CA, a certificate for each host, and one for the client; later runs add hosts
    #[command(after_help = "Example:\n  hostler tls init --output-dir ./tls \
                            --hosts alpha=10.0.0.7,beta=10.0.0.8")]
    Init(Init),
}

#[derive(Args)]
pub(crate) struct Init {
    /// Where ca.crt, ca.key, NAME/server.{crt,key} and client/client.{crt,key} go
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// The hosts, by name and address
    #[arg(long, value_name = "NAME=IP", value_delimiter = ',', required = true)]
    hosts: Vec<NamedHost>,
    /// The trust domain of all of them
    #[arg(long, value_name = "NAME", default_value = "hostler.internal", value_parser = domain)]
    trust_domain: TrustDomain,
    /// How long hosts' and client's certificates are valid; the CA is valid for ten years
    #[arg(long, value_name = "DAYS", default_value_t = 365,
          value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

fn domain(text: &str) -> Result<TrustDomain, String> {
    parse_trust_domain(text).map_err(|error| error.to_string())
}

/// A host: its name is a DNS label and the name of its directory.
#[derive(Clone)]
struct NamedHost {
    name: String,
    address: IpAddr,
}

impl FromStr for NamedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text
            .split_once('=')
            .ok_or("give NAME=IP, like alpha=10.0.0.7")?;
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let label = (1..=63).contains(&name.len())
            && name.bytes().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !label || name == CLIENT {
            return Err(format!(
                "{name:?} is no name for a host; take lower-case letters, digits and hyphens, \
                 and not {CLIENT:?}"
            ));
        }
        let address = address
            .parse()
            .map_err(|_| format!("{address:?} is no IP address"))?;
        Ok(Self {
            name: name.to_owned(),
            address,
        })
    }
}

/// The client's directory and the path of its ID.
const CLIENT: &str = "client";

pub(crate) fn run(command: Tls) -> Result<(), Failure> {
    let Tls::Init(init) = command;
    let dir = &init.output_dir;
    // Looked at before anything is written: what is in use is not replaced by accident.
    for host in &init.hosts {
        let place = dir.join(&host.name);
        if place.exists() {
            let reason = format!(
                "{} is there already; delete it to make it anew",
                place.display()
            );
            return Err(Failure::new(reason));
        }
    }
    make_dir(dir)?;
    let ca = ca(dir, &init.trust_domain)?;
    for NamedHost { name, address } in &init.hosts {
        let pair = ca.issue(&format!("/host/{name}"), Some((name, *address)), init.days)?;
        put(&dir.join(name), "server", &pair)?;
    }
    if !dir.join(CLIENT).exists() {
        let pair = ca.issue(&format!("/{CLIENT}"), None, init.days)?;
        put(&dir.join(CLIENT), "client", &pair)?;
    }
    output::progress(format!(
        "wrote {}: give ca.crt to everybody, each host its own directory, and ca.key to nobody; every \
         certificate of this CA, also a host's, may do everything on each host that trusts it",
        dir.display()
    ));
    Ok(())
}

/// The CA of an earlier run, or a new one.
fn ca(dir: &Path, trust_domain: &TrustDomain) -> Result<Ca, Failure> {
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    if certificate.exists() {
        return Ca::load(&certificate, &key, trust_domain);
    }
    if key.exists() {
        let reason = format!("{} has no ca.crt beside it; delete it first", key.display());
        return Err(Failure::new(reason));
    }
    let (ca, pair) = Ca::new(trust_domain)?;
    write_pair(&certificate, &key, &pair)?;
    Ok(ca)
}

fn put(dir: &Path, name: &str, pair: &Pair) -> Result<(), Failure> {
    make_dir(dir)?;
    let file = |extension| dir.join(format!("{name}.{extension}"));
    write_pair(&file("crt"), &file("key"), pair)
}

/// The key first: a certificate is only ever beside its key.
fn write_pair(certificate: &Path, key: &Path, pair: &Pair) -> Result<(), Failure> {
    files::replace(key, pair.key(), 0o600).doing(|| format!("cannot write {}", key.display()))?;
    files::replace(certificate, pair.certificate(), 0o644)
        .doing(|| format!("cannot write {}", certificate.display()))
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).doing(|| format!("cannot make {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_dns_label_and_an_address() {
        let host: NamedHost = "alpha-1=10.0.0.7".parse().expect("a host");
        assert_eq!(
            (host.name.as_str(), host.address),
            ("alpha-1", [10, 0, 0, 7].into())
        );
        assert!("b=::1".parse::<NamedHost>().is_ok());
        for text in [
            "alpha",
            "=10.0.0.7",
            "alpha=",
            "alpha=host.example",
            "../x=10.0.0.7",
            "A=10.0.0.7",
            "-a=10.0.0.7",
            "a-=10.0.0.7",
            "a.b=10.0.0.7",
            "client=10.0.0.7",
        ] {
            assert!(text.parse::<NamedHost>().is_err(), "{text}");
        }
    }
}
