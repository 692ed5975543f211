//! What an image is called in a registry: `[http://]HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.
//!
//! The grammar is that of the OCI distribution specification. A name without a host means Docker
//! Hub, as everywhere. Plain HTTP is spoken to this machine, and to others only when the reference
//! says `http://`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::digest::Digest;

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `HOST` or `HOST:PORT`.
    pub(crate) registry: String,
    /// Whether TLS is left out.
    pub(crate) plain_http: bool,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

/// Why a string is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidReference {
    #[error("the registry's name is {0:?}")]
    Registry(String),
    #[error("the repository is {0:?}, and it has to be lower-case words joined by slashes")]
    Repository(String),
    #[error(
        "the tag is {0:?}, and it has to be 1 to 128 letters, digits, dots, hyphens and underscores"
    )]
    Tag(String),
    #[error("{0}")]
    Digest(#[from] super::digest::InvalidDigest),
}

const HUB: &str = "registry-1.docker.io";

impl Reference {
    /// What is asked for in the registry: the digest when there is one, else the tag.
    pub(crate) fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let (said_http, rest) = match text.split_once("://") {
            Some(("http", rest)) => (true, rest),
            Some(("https" | "docker" | "oci", rest)) => (false, rest),
            Some((scheme, _)) => return Err(InvalidReference::Registry(format!("{scheme}://"))),
            None => (false, text),
        };
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (rest, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) if is_host(host) => (Some(host), path),
            _ => (None, rest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(InvalidReference::Tag(tag.to_owned()));
        }
        let (registry, repository) = match host {
            Some("docker.io" | "index.docker.io") | None if !repository.contains('/') => {
                (HUB, format!("library/{repository}"))
            }
            Some("docker.io" | "index.docker.io") | None => (HUB, repository.to_owned()),
            Some(host) => (host, repository.to_owned()),
        };
        if !is_authority(registry) {
            return Err(InvalidReference::Registry(registry.to_owned()));
        }
        if !is_repository(&repository) {
            return Err(InvalidReference::Repository(repository));
        }
        Ok(Self {
            registry: registry.to_owned(),
            plain_http: said_http || is_this_machine(registry),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// Tells a host from the first word of a repository: it has a dot or a port, or is this machine.
fn is_host(word: &str) -> bool {
    word == "localhost" || word.contains(['.', ':'])
}

fn is_authority(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let (host, port) = split_port(text);
    let host_is_sane = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let word = |word: &str| !word.is_empty() && !word.starts_with('-');
            host.len() <= 253 && host.bytes().all(plain) && host.split('.').all(word)
        }
    };
    // `parse` alone would take a sign too.
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    host_is_sane && port.is_none_or(is_port)
}

/// Splits `HOST:PORT`, of which the host may be an IPv6 address in brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

pub(super) fn is_this_machine(authority: &str) -> bool {
    let (host, _) = split_port(authority);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_repository(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 255
        && text.split('/').all(|word| {
            let bytes = word.as_bytes();
            bytes.first().is_some_and(|&b| plain(b))
                && bytes.last().is_some_and(|&b| plain(b))
                && bytes.iter().all(|&b| plain(b) || b"._-".contains(&b))
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn names_mean_what_they_mean_everywhere() {
        for (text, registry, repository, wanted, plain_http) in [
            (
                "127.0.0.1:5000/alpine-like:1",
                "127.0.0.1:5000",
                "alpine-like",
                "1",
                true,
            ),
            ("[::1]:5000/a/b", "[::1]:5000", "a/b", "latest", true),
            ("localhost/a:x", "localhost", "a", "x", true),
            (
                "registry.example/a/b:1.0",
                "registry.example",
                "a/b",
                "1.0",
                false,
            ),
            (
                "http://registry.example:80/a",
                "registry.example:80",
                "a",
                "latest",
                true,
            ),
            ("alpine:3.20", HUB, "library/alpine", "3.20", false),
            ("docker.io/alpine", HUB, "library/alpine", "latest", false),
            ("grafana/grafana", HUB, "grafana/grafana", "latest", false),
            (
                "127.0.0.1.example/a",
                "127.0.0.1.example",
                "a",
                "latest",
                false,
            ),
        ] {
            let reference = parsed(text);
            assert_eq!(
                (
                    &*reference.registry,
                    &*reference.repository,
                    &*reference.wanted()
                ),
                (registry, repository, wanted),
                "{text}"
            );
            assert_eq!(reference.plain_http, plain_http, "{text}");
        }
        let digest = Digest::of(b"x");
        assert_eq!(
            parsed(&format!("a:1@{digest}")).wanted(),
            digest.to_string()
        );
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_reference() {
        for text in [
            "",
            "A",
            "a//b",
            "a/../b",
            "../b",
            "r.example/a?x",
            "r.example/a#x",
            "r.example/a b",
            "user:pass@r.example/a",
            "ftp://r.example/a",
            "r.example:0/a",
            "r.example:+80/a",
            "r.example:99999/a",
            "a:",
            "a:-x",
            "a@sha256:12",
            "r_x.example/a",
            "r.example/a\r\nHost: b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_reference_that_is_written_is_read_again(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let mut written = reference.to_string();
                if reference.plain_http {
                    written = format!("http://{written}");
                }
                prop_assert_eq!(parsed(&written), reference);
            }
        }
    }
}
