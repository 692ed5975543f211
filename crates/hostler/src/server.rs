//! `hostler server`: the assembly of a control plane. Its authority, its fleet, its two doors.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use hostler_authority::federation::BundleEndpoint;
use hostler_authority::{Authority, Lifetimes, WebAuthority};
use hostler_fleet::{ApiKey, Config, Fleet, IdentifyError, Principal, SharedKeys};
use hostler_gateway::{
    Admission, AuthError, Credentials, Decoy, Door, DoorLimits, Doorway, Handed, HttpAdapter,
    IdentityProvider, Mcp,
};
use hostler_host::agent::ServerPin;
use hostler_identity::{
    Authorizer, Client, PeerIdentity, SpiffeId, TrustDomain, crypto_provider, server_config, tunnel,
};
use hostler_operations::{Grants, Identity, Registry, Request};
use http::HeaderName;
use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::attach;
use crate::client::tls;
use crate::failure::{Doing, Failure};
use crate::options::{Federate, ServerSettings};
use crate::{output, process};

const HOST_TOKEN: HeaderName = HeaderName::from_static("x-host-token");
/// What an agent that speaks MCP is told before it begins.
const FOR_AGENTS: &str = "Microvirtual machines on a fleet of hosts. vms_create makes one from an \
    image (images_list) and vms_start boots it, vms_get shows its state, vms_stop and vms_delete \
    end it; a running VM is deleted only with force. Without a host, one with room is chosen. A \
    failed call says in its error what to do; one that is retryable may succeed later. Long lists \
    come in pages: pass next_cursor as cursor.";
/// How many connections the machines' door takes.
const MACHINES: usize = 65_536;
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Runs until a signal ends it.
pub(crate) async fn run(settings: ServerSettings) -> Result<(), Failure> {
    let stop = process::stop_on_signal()?;
    let plane = Plane::open(settings).await?;
    if let Some(key) = &plane.first_key {
        output::line("This is the first start. The admin's API key, shown this once:");
        output::line(format!("  {}", key.reveal()));
        if output::lost() {
            return Err(Failure::new(
                "nobody would know the admin's key, so it was not made; start again with somewhere \
                 to print it",
            ));
        }
        plane.admit_first_key().await?;
    }
    output::line(format!(
        "server pin, for agents without ca.pem: {}",
        plane.pin
    ));
    let machines = &plane.machines_url;
    output::line(format!(
        "ready: people at {}, machines at {machines}",
        plane.url()
    ));
    plane.serve(stop).await;
    Ok(())
}

/// A control plane whose doors are open and not yet served.
pub(crate) struct Plane {
    fleet: Arc<Fleet>,
    registry: Arc<Registry>,
    people: Door,
    machines: Door,
    pub(crate) machines_url: String,
    ca_pem: Option<String>,
    /// By what an agent without a CA file recognises the people's door.
    pin: ServerPin,
    pub(crate) first_key: Option<ApiKey>,
}

impl Plane {
    pub(crate) async fn open(settings: ServerSettings) -> Result<Self, Failure> {
        // The commonest mistake first: an address that is taken.
        let people = Doorway::bind(settings.listen).await?;
        let machines = Doorway::bind(settings.fleet_listen).await?;
        let machines_url = match settings.fleet_url {
            Some(url) => url,
            None => url_of(machines.local_addr()),
        };

        let now = Timestamp::now();
        let trust_domain = TrustDomain::new(&settings.trust_domain)
            .doing(|| format!("{:?} is no trust domain", settings.trust_domain))?;
        let lifetimes = Lifetimes {
            svid: SignedDuration::try_from(settings.svid_ttl).doing(|| "--svid-ttl is too long")?,
            root: SignedDuration::try_from(settings.ca_ttl).doing(|| "--ca-ttl is too long")?,
            ..Lifetimes::default()
        };
        // What was asked for is checked before the admin's key is made, which is shown only once.
        let decoy = decoy(&settings.decoy)?;
        // Servers that share a database share the keys that are in it.
        let shared = SharedKeys::open(&settings.database).await?.map(Arc::new);
        let mut names = names(people.local_addr(), settings.tls_names);
        let (people_tls, ca_pem, pin) = match &settings.tls_files {
            Some((cert, key)) => {
                let (tls, leaf) = certificate_of_files(cert, key)?;
                let pin =
                    ServerPin::of(&leaf).doing(|| format!("cannot read {}", cert.display()))?;
                names.extend(names_of(&leaf));
                (tls, None, pin)
            }
            None => {
                let dir = &settings.data_dir;
                let web = match &shared {
                    Some(keys) => WebAuthority::open_shared(dir, &**keys, &names, now)?,
                    None => WebAuthority::open(dir, &names, now)?,
                };
                let pin = ServerPin::of(web.ca_der())?;
                (web.server_config(&ALPN), Some(web.ca_pem().to_owned()), pin)
            }
        };
        let (dir, domain) = (settings.data_dir.join("authority"), trust_domain.clone());
        let authority = match shared {
            Some(keys) => Authority::open_shared(keys, domain, lifetimes, now)?,
            None => Authority::open_with(&dir, domain, lifetimes, now)?,
        };
        let own_id = SpiffeId::from_segments(trust_domain, &["control-plane", "1"])?;
        let source = authority.source(&own_id)?;

        let attached = match &settings.attach {
            Some(file) => attach::read(file)?,
            None => Vec::new(),
        };
        let config = Config {
            database: settings.database,
            machines_url: machines_url.clone(),
            replica_url: settings
                .replica_url
                .unwrap_or_else(|| url_of(machines.local_addr())),
            redis: settings.redis,
            federation: bundle_endpoints(&settings.federate)?,
        };
        let (fleet, first_key) = Fleet::open(config, authority, source.clone()).await?;
        let mut registry = hostler_fleet::mount(Registry::builder(), &fleet);
        for api in attached {
            registry = registry.service(api.service, &api.upstream);
        }
        let registry = registry.build()?;

        let adapter = |decoy| {
            let callers = Arc::new(Callers(Arc::clone(&fleet)));
            let health = Arc::clone(&fleet);
            HttpAdapter::builder(Arc::clone(&registry), callers)
                .credential_header(HOST_TOKEN)
                .decoy(decoy)
                .health(move || health.healthy())
                .limits(settings.limits.clone())
                .about("Hostler control plane", env!("CARGO_PKG_VERSION"))
        };
        let mcp = settings
            .mcp_origins
            .iter()
            .fold(Mcp::new(names), |mcp, origin| mcp.origin(origin))
            .instructions(FOR_AGENTS);
        let for_people = adapter(decoy).mcp(mcp).build()?;
        let for_machines = adapter(Decoy::NotFound).build()?;
        let machines_tls = server_config(&source, enrolled(&fleet));
        // Each host may have a connection for its calls and one on which it waits for ours.
        let mut machines_limits = DoorLimits::default();
        machines_limits.connections = MACHINES;
        // A whole fleet may be behind one address.
        machines_limits.connections_per_address = MACHINES;
        let machines = machines.door(&machines_tls, &for_machines, machines_limits);
        let machines = reverse(machines, &fleet);
        Ok(Self {
            people: people
                .door(&people_tls, &for_people, settings.door)
                .with_quic()?
                .with_calls(for_people.calls())?,
            machines: machines
                .with_quic()?
                .with_calls(for_machines.calls())?
                .admitting(still_enrolled(&fleet)),
            fleet,
            registry,
            machines_url,
            ca_pem,
            pin,
            first_key,
        })
    }

    /// The people's door.
    pub(crate) fn url(&self) -> String {
        url_of(self.people.local_addr())
    }

    /// What the people's door is recognised by, when its certificate is of its own making.
    pub(crate) fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Makes the first key good, once it is where it will be found.
    pub(crate) async fn admit_first_key(&self) -> Result<(), Failure> {
        match &self.first_key {
            Some(key) => Ok(self.fleet.admit_first_key(key).await?),
            None => Ok(()),
        }
    }

    /// Calls operations in the name of whoever runs this process.
    pub(crate) fn operator(&self) -> Operator {
        Operator(Arc::clone(&self.registry))
    }

    /// Serves until it is told to stop, and then until what is in flight has ended.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let monitor = self.fleet.run_monitor(stop.clone());
        // What people have asked for may still need a host that waits at the machines' door.
        let machines_stop = CancellationToken::new();
        let people = async {
            self.people.serve(stop).await;
            machines_stop.cancel();
        };
        tokio::join!(people, self.machines.serve(machines_stop.clone()), monitor);
        self.fleet.close().await;
    }
}

/// Whoever runs this process can do everything with its data, so also through its operations.
pub(crate) struct Operator(Arc<Registry>);

impl Operator {
    /// The one-time token of a new host.
    pub(crate) async fn announce_host(&self) -> Result<SecretString, Failure> {
        let created = self
            .call("hosts/create", json!({ "type": "regular" }))
            .await?;
        text(&created, "registration_token")
    }

    /// A new API key that may do everything.
    pub(crate) async fn admin_key(&self, name: &str) -> Result<SecretString, Failure> {
        let input = json!({ "name": name, "scopes": ["admin"] });
        text(&self.call("api-keys/create", input).await?, "secret")
    }

    async fn call(&self, operation: &str, input: Value) -> Result<Value, Failure> {
        let identity = Identity::new("operator", Grants::All).with_principal(Principal::Platform);
        let request = Request {
            input,
            identity: Some(identity),
            ..Request::default()
        };
        let reply = self.0.invoke(operation, request).await;
        Ok(reply.doing(|| format!("{operation} failed"))?.output)
    }
}

fn text(answer: &Value, field: &str) -> Result<SecretString, Failure> {
    let text = answer[field].as_str().map(SecretString::from);
    text.ok_or_else(|| Failure::new(format!("the answer has no {field}; this is a bug")))
}

/// Machines that may connect: enrolled hosts, and other replicas of the control plane.
fn enrolled(fleet: &Arc<Fleet>) -> Authorizer {
    let fleet = Arc::clone(fleet);
    Authorizer::matcher(move |peer| fleet.admits(peer))
}

/// Takes the connections of hosts that nobody can dial, and those of servers that want to reach them.
fn reverse(machines: Door, fleet: &Arc<Fleet>) -> Door {
    let (holds, passes_on) = (Arc::clone(fleet), Arc::clone(fleet));
    machines
        .handing(
            tunnel::ALPN_REVERSE,
            move |Handed { stream, connection }| {
                let fleet = Arc::clone(&holds);
                async move {
                    if let Some(peer) = connection.peer() {
                        fleet.hold(peer.id(), stream).await;
                    }
                }
            },
        )
        .handing(tunnel::ALPN_RELAY, move |Handed { stream, connection }| {
            let fleet = Arc::clone(&passes_on);
            async move {
                if let Some(peer) = connection.peer() {
                    fleet.pass_on(peer.id(), stream).await;
                }
            }
        })
}

/// The same of those who are connected: a host that is deleted is out at once.
fn still_enrolled(fleet: &Arc<Fleet>) -> Admission {
    let (fleet, dismissals) = (Arc::clone(fleet), fleet.watch_dismissals());
    Admission::new(move |peer| fleet.admits(peer), dismissals)
}

/// Where foreign trust domains publish their bundles, with web certificates (`https_web`).
fn bundle_endpoints(federate: &[Federate]) -> Result<Vec<BundleEndpoint>, Failure> {
    let endpoints = federate.iter().map(|wanted| {
        let trust_domain = TrustDomain::new(&wanted.trust_domain)
            .doing(|| format!("{:?} is no trust domain", wanted.trust_domain))?;
        let client = Client::with_tls(tls::config(wanted.ca.as_deref())?);
        Ok(BundleEndpoint::new(trust_domain, &wanted.url, client)?)
    });
    endpoints.collect()
}

fn url_of(address: std::net::SocketAddr) -> String {
    format!("https://{address}")
}

/// What the certificate of the people's door is good for: where it listens, this machine's name,
/// and whatever else was asked for.
fn names(listen: std::net::SocketAddr, asked: Vec<String>) -> Vec<String> {
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    if let Ok(host) = rustix::system::uname().nodename().to_str() {
        names.push(host.to_owned());
    }
    names.extend(asked);
    names.sort();
    names.dedup();
    names
}

/// TLS 1.3 with a certificate that somebody else issued, and that certificate.
fn certificate_of_files(
    cert: &Path,
    key: &Path,
) -> Result<(ServerConfig, CertificateDer<'static>), Failure> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .doing(|| format!("cannot read the certificate {}", cert.display()))?;
    let leaf = chain
        .first()
        .cloned()
        .ok_or_else(|| Failure::new(format!("{} holds no certificate", cert.display())))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .doing(|| format!("cannot read the key {}", key.display()))?;
    let config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .doing(|| "cannot set up TLS 1.3")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .doing(|| format!("{} and {} do not fit", cert.display(), key.display()))?;
    Ok((config, leaf))
}

/// The names and addresses that a certificate is good for.
fn names_of(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
                _ => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            },
            _ => None,
        })
        .collect()
}

fn decoy(text: &str) -> Result<Decoy, Failure> {
    match text.split_once(':') {
        None if text == "not-found" => Ok(Decoy::NotFound),
        Some(("site", directory)) => Ok(Decoy::Site(directory.into())),
        Some(("redirect", url)) => {
            let url = Url::parse(url).doing(|| format!("{url:?} is no URL to redirect to"))?;
            Ok(Decoy::Redirect(url))
        }
        _ => Err(Failure::new(format!(
            "{text:?} is no decoy; give not-found, site:DIR or redirect:URL"
        ))),
    }
}

/// Asks the fleet whose a request is.
struct Callers(Arc<Fleet>);

impl IdentityProvider for Callers {
    fn resolve<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>> {
        Box::pin(async {
            let token = credentials
                .named
                .iter()
                .find(|(name, _)| *name == HOST_TOKEN);
            let token = token.map(|(_, token)| token);
            let peer = credentials.peer.as_ref();
            // A connection may live longer than the certificate that it began with.
            if peer.is_some_and(|peer| peer.expires_at() < Timestamp::now()) {
                return Err(AuthError::invalid(
                    "your certificate has expired; connect anew",
                ));
            }
            self.0
                .identify(
                    credentials.bearer.as_ref(),
                    token,
                    peer.map(PeerIdentity::id),
                )
                .await
                .map_err(|error| match error {
                    IdentifyError::Unavailable(cause) => AuthError::Unavailable(cause.to_string()),
                    refused => AuthError::invalid(refused.to_string()),
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoy_is_read_from_its_option() {
        assert!(matches!(decoy("not-found"), Ok(Decoy::NotFound)));
        assert!(matches!(decoy("site:/srv/www"), Ok(Decoy::Site(_))));
        assert!(matches!(
            decoy("redirect:https://example.org/"),
            Ok(Decoy::Redirect(_))
        ));
        for bad in ["", "nothing", "site", "redirect:nowhere"] {
            assert!(decoy(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_certificate_names_where_the_door_is() {
        let names = names(
            ([10, 0, 0, 7], 8443).into(),
            vec!["cloud.example".to_owned()],
        );
        for name in ["10.0.0.7", "127.0.0.1", "localhost", "cloud.example"] {
            assert!(
                names.iter().any(|n| n == name),
                "{name} is missing from {names:?}"
            );
        }
    }
}
