//! Where a Workload API listens, as text
//! ([SPIFFE Workload Endpoint](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_Endpoint.md) §4).
//!
//! Read here before the `spiffe` crate sees it. That one goes through a URL parser, which mends
//! what it reads: it resolves `..`, cuts spaces off, and writes others as `%20`, and then looks for
//! a socket that nobody named. What would be mended is refused instead.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The variable by which a process is told where its Workload API is.
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The address of a Workload API: `unix:///path/to/socket` or `tcp://IP:PORT`.
///
/// ```
/// use hostler_identity::WorkloadEndpoint;
///
/// let socket: WorkloadEndpoint = "unix:///run/spire/agent/api.sock".parse()?;
/// assert_eq!(socket.to_string(), "unix:///run/spire/agent/api.sock");
/// assert!("tcp://localhost:8081".parse::<WorkloadEndpoint>().is_err());
/// # Ok::<(), hostler_identity::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEndpoint(Address);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Why a text is no address of a Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The scheme is `unix` or `tcp`.
    #[error("it begins with unix:/// or tcp://")]
    Scheme,
    /// `unix` takes an absolute path, and no host before it.
    #[error("unix: takes an absolute path and no host: unix:///path/to/socket")]
    UnixPath,
    /// A path that a URL parser would read as another one.
    #[error("its path has an empty, `.` or `..` segment, or a character that URLs escape")]
    UnusualPath,
    /// `tcp` takes an IP address and a port: no host name, user info, path, query or fragment.
    #[error("tcp: takes an IP address and a port, and nothing else: tcp://127.0.0.1:8081")]
    TcpAddress,
    /// The variable that should hold it is not set.
    #[error(
        "{VARIABLE} is not set; set it to where the Workload API listens: unix:///path/to/socket"
    )]
    NotSet,
    /// The variable that should hold it holds something that is not text.
    #[error("{VARIABLE} is not text")]
    NotText,
}

impl WorkloadEndpoint {
    /// What `SPIFFE_ENDPOINT_SOCKET` says.
    pub fn from_env() -> Result<Self, EndpointError> {
        match std::env::var(VARIABLE) {
            Ok(text) => text.parse(),
            Err(std::env::VarError::NotPresent) => Err(EndpointError::NotSet),
            Err(std::env::VarError::NotUnicode(_)) => Err(EndpointError::NotText),
        }
    }

    /// The endpoint of a socket in the file system; the path is absolute.
    pub fn unix(path: &Path) -> Result<Self, EndpointError> {
        let text = path.to_str().ok_or(EndpointError::UnusualPath)?;
        unix(text).map(Self)
    }
}

impl FromStr for WorkloadEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        // `unix:/path` is the same URI without its empty authority (RFC 3986 §3).
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path.strip_prefix("//").unwrap_or(path)).map(Self);
        }
        let address = text.strip_prefix("tcp://").ok_or(EndpointError::Scheme)?;
        tcp(address).map(Self)
    }
}

fn unix(path: &str) -> Result<Address, EndpointError> {
    let inner = path.strip_prefix('/').ok_or(EndpointError::UnixPath)?;
    let usual = |segment: &str| {
        !matches!(segment, "" | "." | "..") && segment.bytes().all(stands_for_itself)
    };
    match inner.split('/').all(usual) {
        true => Ok(Address::Unix(PathBuf::from(path))),
        false if inner.is_empty() => Err(EndpointError::UnixPath),
        false => Err(EndpointError::UnusualPath),
    }
}

/// The characters of a path segment that are not escaped (RFC 3986 §3.3, `pchar`).
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

fn tcp(text: &str) -> Result<Address, EndpointError> {
    let address: SocketAddr = text.parse().map_err(|_| EndpointError::TcpAddress)?;
    // A zone names an interface of this machine. The parser takes `%0` for none.
    match address.port() == 0 || text.contains('%') {
        true => Err(EndpointError::TcpAddress),
        false => Ok(Address::Tcp(address)),
    }
}

impl fmt::Display for WorkloadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}
