//! The options of a control plane.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use hostler_fleet::{Database, RedisUrl};
use hostler_gateway::{DoorLimits, RequestLimits};
use hostler_operations::rate::Rate;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{UpSettings, default_data_dir, read};
use crate::failure::{Doing, Failure};

#[derive(Args, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerOptions {
    /// Where the control plane keeps its keys and its database
    #[arg(long, env = "HOSTLER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The people's door: where users, programs and browsers connect [default: 127.0.0.1:8443]
    #[arg(long, env = "HOSTLER_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// The machines' door: where enrolled hosts connect [default: 127.0.0.1:8444]
    #[arg(long, env = "HOSTLER_FLEET_LISTEN", value_name = "IP:PORT")]
    fleet_listen: Option<SocketAddr>,
    /// The machines' door as hosts reach it, when that is not the address it listens on
    #[arg(long, env = "HOSTLER_FLEET_URL", value_name = "URL")]
    fleet_url: Option<String>,
    /// The machines' door of this server as other servers on the same database reach it: they have
    /// calls to hosts without an address passed on [default: the address it listens on]
    #[arg(long, env = "HOSTLER_REPLICA_URL", value_name = "URL")]
    replica_url: Option<String>,
    /// Where the data lives: sqlite:PATH, or postgres://USER:PASSWORD@HOST:PORT/DATABASE, which
    /// several servers may share; others on this machine can read a flag, so give a URL with a
    /// password in the variable or a file [default: sqlite:DATA_DIR/hostler.db]
    #[arg(
        long,
        alias = "database",
        env = "HOSTLER_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<SecretString>,
    /// A file that holds the URL of the database, mode 0600
    #[arg(long, env = "HOSTLER_DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// A Redis or Valkey (6 or later) that all servers on the database use: they then hear of each
    /// other's changes at once, and most heartbeats need not go to the database. Nothing is lost
    /// with it. redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, or redis+unix:///PATH; give a
    /// URL with a password in the variable or a file
    #[arg(
        long,
        env = "HOSTLER_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    redis_url: Option<SecretString>,
    /// A file that holds the URL of Redis, mode 0600
    #[arg(long, env = "HOSTLER_REDIS_URL_FILE", value_name = "FILE")]
    redis_url_file: Option<PathBuf>,
    /// The SPIFFE trust domain of this fleet [default: hostler.internal]
    #[arg(long, env = "HOSTLER_TRUST_DOMAIN", value_name = "NAME")]
    trust_domain: Option<String>,
    /// How long an X.509-SVID is valid, in seconds; it is renewed at half of that [default: 3600]
    #[arg(long, env = "HOSTLER_SVID_TTL", value_name = "SECONDS")]
    svid_ttl: Option<u64>,
    /// How long a root of the authority is valid, in seconds; its successor is published at half of
    /// that and signs from the last sixth [default: 2592000]
    #[arg(long, env = "HOSTLER_CA_TTL", value_name = "SECONDS")]
    ca_ttl: Option<u64>,
    /// A foreign trust domain whose members processes on hosts may recognise, and the URL at which
    /// it publishes its bundle; its server is recognised by the CAs that this system trusts, or by
    /// those in the file. May be given again; in the variable, separate by semicolons
    #[arg(
        long,
        env = "HOSTLER_FEDERATE",
        value_name = "TRUST_DOMAIN=URL[,ca=FILE]",
        value_delimiter = ';'
    )]
    federate: Option<Vec<String>>,
    /// A certificate of your own for the people's door, PEM, with --tls-key
    #[arg(long, env = "HOSTLER_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert, PEM
    #[arg(long, env = "HOSTLER_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// A further DNS name or IP address for the certificate that the server makes for itself
    #[arg(
        long,
        env = "HOSTLER_TLS_NAME",
        value_name = "NAME",
        value_delimiter = ','
    )]
    tls_name: Option<Vec<String>>,
    /// What an unknown path answers: not-found, site:DIR or redirect:URL [default: not-found]
    #[arg(long, env = "HOSTLER_DECOY", value_name = "DECOY")]
    decoy: Option<String>,
    /// An origin whose pages may call /mcp with a browser's fetch, beside the server's own. May be
    /// given again; in the variable, separate by commas
    #[arg(
        long,
        env = "HOSTLER_MCP_ORIGIN",
        value_name = "URL",
        value_delimiter = ','
    )]
    mcp_origin: Option<Vec<Url>>,
    /// A YAML file of APIs whose operations are to be called here too, each by its OpenAPI document
    /// and with a credential of the server's; docs/attach.md
    #[arg(long, env = "HOSTLER_ATTACH", value_name = "FILE")]
    attach: Option<PathBuf>,
    /// Requests a second that one address may send to a door without proving who sends them, with
    /// ten times as many at once; 0: any number [default: 50]
    #[arg(long, env = "HOSTLER_RATE_PER_ADDRESS", value_name = "NUMBER")]
    rate_per_address: Option<u32>,
    /// Requests a second that one user, key or host may send to a door, with ten times as many at
    /// once; 0: any number [default: 500]
    #[arg(long, env = "HOSTLER_RATE_PER_TOKEN", value_name = "NUMBER")]
    rate_per_token: Option<u32>,
    /// Connections at one time at the people's door [default: 4096]
    #[arg(long, env = "HOSTLER_MAX_CONNECTIONS", value_name = "NUMBER")]
    max_connections: Option<NonZeroUsize>,
    /// How many of them one address may have; a balancer that hides where others come from needs
    /// all of them [default: a quarter]
    #[arg(
        long,
        env = "HOSTLER_MAX_CONNECTIONS_PER_ADDRESS",
        value_name = "NUMBER"
    )]
    max_connections_per_address: Option<NonZeroUsize>,
    /// A YAML file with any of these options as keys (data_dir: ...)
    #[arg(long, env = "HOSTLER_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

/// The options of a control plane, complete.
pub(crate) struct ServerSettings {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) fleet_listen: SocketAddr,
    pub(crate) fleet_url: Option<String>,
    pub(crate) replica_url: Option<String>,
    pub(crate) database: Database,
    pub(crate) redis: Option<RedisUrl>,
    pub(crate) trust_domain: String,
    pub(crate) svid_ttl: Duration,
    pub(crate) ca_ttl: Duration,
    pub(crate) federate: Vec<Federate>,
    pub(crate) tls_files: Option<(PathBuf, PathBuf)>,
    pub(crate) tls_names: Vec<String>,
    pub(crate) decoy: String,
    pub(crate) mcp_origins: Vec<Url>,
    pub(crate) attach: Option<PathBuf>,
    pub(crate) limits: RequestLimits,
    /// Of the people's door.
    pub(crate) door: DoorLimits,
}

const DEFAULT_TRUST_DOMAIN: &str = "hostler.internal";
const DEFAULT_SVID_TTL: Duration = Duration::from_secs(3600);
const LEAST_SVID_TTL: Duration = Duration::from_secs(10);
const DEFAULT_CA_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Successors need time to travel: a third of this, less the 30 s by which roots are back-dated.
const LEAST_CA_TTL: Duration = Duration::from_secs(90);

/// Where a foreign trust domain publishes its bundle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Federate {
    pub(crate) trust_domain: String,
    pub(crate) url: String,
    /// By what its server is recognised; `None`: the system's CAs.
    pub(crate) ca: Option<PathBuf>,
}

impl FromStr for Federate {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::new(format!(
                "{text:?} is no federation; give --federate TRUST_DOMAIN=URL[,ca=FILE]"
            ))
        };
        let (trust_domain, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (url, ca) = match rest.split_once(",ca=") {
            Some((url, file)) if !file.is_empty() => (url, Some(PathBuf::from(file))),
            Some(_) => return Err(wrong()),
            None => (rest, None),
        };
        if trust_domain.is_empty() || url.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            url: url.to_owned(),
            ca,
        })
    }
}

/// The books of a server that keeps them itself.
fn own_database(data_dir: &Path) -> Database {
    Database::Sqlite(data_dir.join("hostler.db"))
}

/// Where the books are. A URL is never repeated in an error: a password may be in it.
fn database(
    url: Option<SecretString>,
    file: Option<PathBuf>,
    data_dir: &Path,
) -> Result<Database, Failure> {
    match secret_url("--database-url", url, file)? {
        None => Ok(own_database(data_dir)),
        Some(url) => Ok(url.expose_secret().trim().parse()?),
    }
}

/// The Redis beside the books, if any.
fn redis(url: Option<SecretString>, file: Option<PathBuf>) -> Result<Option<RedisUrl>, Failure> {
    let url = secret_url("--redis-url", url, file)?;
    let url = url.map(|url| url.expose_secret().trim().parse());
    Ok(url.transpose()?)
}

/// A URL that may be given by itself or in a file, by this option or the one that ends in `-file`.
fn secret_url(
    option: &str,
    url: Option<SecretString>,
    file: Option<PathBuf>,
) -> Result<Option<SecretString>, Failure> {
    match (url, file) {
        (Some(_), Some(_)) => Err(Failure::new(format!(
            "{option} and {option}-file say the same thing; give one of them"
        ))),
        (url, None) => Ok(url),
        (None, Some(path)) => secret_of_file(&path).map(Some),
    }
}

/// What a request may take, with the rates that were asked for.
fn limits(per_address: Option<u32>, per_token: Option<u32>) -> RequestLimits {
    let rate = |number| NonZeroU32::new(number).map(Rate::per_second);
    let mut limits = RequestLimits::default();
    if let Some(number) = per_address {
        limits.strangers = rate(number);
    }
    if let Some(number) = per_token {
        limits.callers = rate(number);
    }
    limits
}

/// What a door may take, with the connections that were asked for.
fn door(connections: Option<NonZeroUsize>, of_an_address: Option<NonZeroUsize>) -> DoorLimits {
    let mut limits = DoorLimits::default();
    if let Some(number) = connections {
        limits.connections = number.get();
        limits.connections_per_address = number.get().div_ceil(4);
    }
    if let Some(number) = of_an_address {
        limits.connections_per_address = number.get();
    }
    limits
}

/// The text of a file that nobody else may read.
pub(crate) fn secret_of_file(path: &Path) -> Result<SecretString, Failure> {
    let reading = || format!("cannot read {}", path.display());
    let mode = std::fs::metadata(path).doing(reading)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Failure::new(format!(
            "others can read {}, which holds a secret; run: chmod 600 {}",
            path.display(),
            path.display()
        )));
    }
    Ok(std::fs::read_to_string(path).doing(reading)?.into())
}

impl ServerOptions {
    pub(crate) fn resolve(self) -> Result<ServerSettings, Failure> {
        let file: Self = read(self.config.as_deref())?;
        let all = over!(
            Self,
            self,
            file,
            data_dir,
            listen,
            fleet_listen,
            fleet_url,
            replica_url,
            database_url,
            database_url_file,
            redis_url,
            redis_url_file,
            trust_domain,
            svid_ttl,
            ca_ttl,
            federate,
            tls_cert,
            tls_key,
            tls_name,
            decoy,
            mcp_origin,
            attach,
            rate_per_address,
            rate_per_token,
            max_connections,
            max_connections_per_address,
            config,
        );
        let tls_files = match (all.tls_cert, all.tls_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err(Failure::new(
                    "--tls-cert and --tls-key go together; give both",
                ));
            }
        };
        let svid_ttl = all.svid_ttl.map_or(DEFAULT_SVID_TTL, Duration::from_secs);
        if svid_ttl < LEAST_SVID_TTL {
            return Err(Failure::new(format!(
                "--svid-ttl {} is too short to renew in time; give at least {}",
                svid_ttl.as_secs(),
                LEAST_SVID_TTL.as_secs()
            )));
        }
        let ca_ttl = all.ca_ttl.map_or(DEFAULT_CA_TTL, Duration::from_secs);
        if ca_ttl < LEAST_CA_TTL {
            return Err(Failure::new(format!(
                "--ca-ttl {} is too short for a successor to be known in time; give at least {}",
                ca_ttl.as_secs(),
                LEAST_CA_TTL.as_secs()
            )));
        }
        let federate = all.federate.unwrap_or_default();
        let federate = federate.iter().map(|text| text.parse());
        let data_dir = all
            .data_dir
            .map_or_else(|| default_data_dir("server"), Ok)?;
        Ok(ServerSettings {
            ca_ttl,
            federate: federate.collect::<Result<_, _>>()?,
            database: database(all.database_url, all.database_url_file, &data_dir)?,
            redis: redis(all.redis_url, all.redis_url_file)?,
            data_dir,
            listen: all.listen.unwrap_or(([127, 0, 0, 1], 8443).into()),
            fleet_listen: all.fleet_listen.unwrap_or(([127, 0, 0, 1], 8444).into()),
            fleet_url: all.fleet_url,
            replica_url: all.replica_url,
            trust_domain: all
                .trust_domain
                .unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned()),
            svid_ttl,
            tls_files,
            tls_names: all.tls_name.unwrap_or_default(),
            decoy: all.decoy.unwrap_or_else(|| "not-found".to_owned()),
            mcp_origins: all.mcp_origin.unwrap_or_default(),
            attach: all.attach,
            limits: limits(all.rate_per_address, all.rate_per_token),
            door: door(all.max_connections, all.max_connections_per_address),
        })
    }
}

impl ServerSettings {
    /// The control plane of `hostler up`.
    pub(crate) fn for_up(up: &UpSettings) -> Self {
        let data_dir = up.data_dir.join("server");
        Self {
            database: own_database(&data_dir),
            redis: None,
            data_dir,
            listen: up.listen,
            fleet_listen: up.fleet_listen,
            fleet_url: None,
            replica_url: None,
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            svid_ttl: DEFAULT_SVID_TTL,
            ca_ttl: DEFAULT_CA_TTL,
            federate: Vec::new(),
            tls_files: None,
            tls_names: Vec::new(),
            decoy: "not-found".to_owned(),
            mcp_origins: Vec::new(),
            attach: None,
            limits: RequestLimits::default(),
            door: DoorLimits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let yaml = file("data_dir: /from/file\ntrust_domain: file.example\n");
        let options = ServerOptions {
            data_dir: Some("/from/flag".into()),
            config: Some(yaml.path().to_owned()),
            ..ServerOptions::default()
        };
        let settings = options.resolve().expect("settings");
        assert_eq!(settings.data_dir, Path::new("/from/flag"));
        assert_eq!(settings.trust_domain, "file.example");
        assert_eq!(settings.listen.port(), 8443);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_key_and_line() {
        let yaml = file("data_dir: /x\nlisen: 127.0.0.1:1\n");
        let config = Some(yaml.path().to_owned());
        let failure = ServerOptions {
            config,
            ..ServerOptions::default()
        }
        .resolve()
        .err();
        let line = failure.expect("a failure").to_string();
        assert!(line.contains("lisen") && line.contains("line 2"), "{line}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let options = ServerOptions {
            tls_cert: Some("c.pem".into()),
            ..ServerOptions::default()
        };
        let line = options.resolve().err().expect("a failure").to_string();
        assert!(line.contains("--tls-key"), "{line}");
    }

    #[test]
    fn a_federation_names_a_trust_domain_a_url_and_perhaps_a_ca() {
        let federate = |ca: Option<&str>| Federate {
            trust_domain: "b.example".to_owned(),
            url: "https://b.example/bundle?x=1".to_owned(),
            ca: ca.map(PathBuf::from),
        };
        let plain = "b.example=https://b.example/bundle?x=1";
        assert_eq!(plain.parse::<Federate>().ok(), Some(federate(None)));
        let with_ca = format!("{plain},ca=/etc/b.pem");
        assert_eq!(
            with_ca.parse::<Federate>().ok(),
            Some(federate(Some("/etc/b.pem")))
        );
        for bad in [
            "",
            "b.example",
            "=https://b.example",
            "b.example=",
            "b=https://b,ca=",
        ] {
            let told = bad.parse::<Federate>().expect_err(bad).to_string();
            assert!(told.contains("--federate"), "{told}");
        }
    }

    #[test]
    fn a_root_that_is_too_short_for_its_successor_is_refused() {
        let options = ServerOptions {
            ca_ttl: Some(89),
            ..ServerOptions::default()
        };
        let line = options.resolve().err().expect("a failure").to_string();
        assert!(
            line.contains("--ca-ttl 89") && line.contains("90"),
            "{line}"
        );
    }
}
