//! Connections that hosts have made to this server, because nobody can dial them.
//!
//! On such a connection we open a stream when we would dial, and shake hands with the host's door on
//! it as ever: a connection that is held for a host proves nothing, the handshake at its end does.
//! Of several servers one holds the connection of a host; the others ask it to pass streams on,
//! which it cannot read.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hostler_identity::tunnel::{ALPN_RELAY, BoxedStream, Tunnel, serve_streams};
use hostler_identity::{Authorizer, Source, SpiffeId, TrustDomain, client_config};
use http::Uri;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::store::{Store, StoreError, links};

/// For a connection to another server.
const CONNECTING: Duration = Duration::from_secs(5);

/// The connections that are held here, and those to servers that hold others.
pub(crate) struct Reverse {
    store: Store,
    source: Source,
    trust_domain: TrustDomain,
    /// Where other servers reach this one.
    url: String,
    held: Mutex<HashMap<HostId, (String, Tunnel)>>,
    relays: Mutex<HashMap<String, Tunnel>>,
}

fn open<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reverse {
    pub(super) fn new(
        store: Store,
        source: Source,
        trust_domain: TrustDomain,
        url: String,
    ) -> Self {
        Self {
            store,
            source,
            trust_domain,
            url,
            held: Mutex::default(),
            relays: Mutex::default(),
        }
    }

    /// What makes the connections of a client to one host: a stream where the URL names the host by
    /// its id, which it does when nobody knows an address.
    pub(super) fn dialler(
        self: &Arc<Self>,
        host: HostId,
    ) -> impl Fn(Uri) -> BoxFuture<'static, io::Result<Option<BoxedStream>>> + Send + Sync + 'static
    {
        let reverse = Arc::clone(self);
        move |uri| {
            let (reverse, host) = (Arc::clone(&reverse), host.clone());
            Box::pin(async move {
                match uri.host() == Some(host.as_str()) {
                    true => reverse.stream_to(&host).await.map(Some),
                    false => Ok(None),
                }
            })
        }
    }

    /// A stream to a host's door, over its connection here or the one at another server.
    async fn stream_to(&self, host: &HostId) -> io::Result<BoxedStream> {
        let held = open(&self.held).get(host).map(|(_, tunnel)| tunnel.clone());
        match held {
            Some(tunnel) if !tunnel.is_closed() => return tunnel.open(host.as_str()).await,
            _ => {}
        }
        if self.store.is_shared() {
            let mut db = self.store.read().await.map_err(io::Error::other)?;
            let elsewhere = links::of(&mut db, host).await.map_err(io::Error::other)?;
            drop(db);
            if let Some(url) = elsewhere.filter(|url| *url != self.url) {
                return self.relay(&url).await?.open(host.as_str()).await;
            }
        }
        let said = format!("{host} is not connected to the control plane now");
        Err(io::Error::new(io::ErrorKind::NotConnected, said))
    }

    /// A connection to another server that passes streams on.
    async fn relay(&self, url: &str) -> io::Result<Tunnel> {
        let known = open(&self.relays).get(url).cloned();
        if let Some(tunnel) = known.filter(|tunnel| !tunnel.is_closed()) {
            return Ok(tunnel);
        }
        let uri: Uri = url.parse().map_err(io::Error::other)?;
        let name = uri.host().unwrap_or_default();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let server = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let domain = self.trust_domain.clone();
        let replica = Authorizer::matcher(move |id| is_replica(id, &domain));
        let mut config = client_config(&self.source, replica);
        config.alpn_protocols = vec![ALPN_RELAY.to_vec()];
        let connecting = async {
            let tcp = TcpStream::connect((bare, uri.port_u16().unwrap_or(443))).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(Arc::new(config));
            Tunnel::over(tls.connect(server, tcp).await?).await
        };
        let connected = tokio::time::timeout(CONNECTING, connecting).await;
        let (tunnel, driven) = connected.map_err(|_| io::ErrorKind::TimedOut)??;
        tokio::spawn(async move {
            if let Err(error) = driven.await {
                tracing::debug!(%error, "a connection to another server broke");
            }
        });
        open(&self.relays).insert(url.to_owned(), tunnel.clone());
        Ok(tunnel)
    }

    /// Holds a host's connection until it ends.
    async fn hold(self: &Arc<Self>, host: &HostId, connection: BoxedStream) -> io::Result<()> {
        let (tunnel, driven) = Tunnel::over(connection).await?;
        let link = uuid::Uuid::now_v7().to_string();
        let held = (link.clone(), tunnel);
        open(&self.held).insert(host.clone(), held);
        let _ends = Ends {
            reverse: Arc::clone(self),
            host: host.clone(),
            link: link.clone(),
        };
        self.note_link(host, &link)
            .await
            .map_err(io::Error::other)?;
        driven.await
    }

    async fn note_link(&self, host: &HostId, link: &str) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let mut db = self.store.note().await?;
        links::put(&mut db, host, link, &self.url).await
    }

    async fn note_end(&self, host: &HostId, link: &str) -> Result<(), StoreError> {
        let mut db = self.store.note().await?;
        links::end(&mut db, host, link).await
    }
}

/// Takes a connection from those that are held, and out of the books, however its end came: the
/// door cuts it when the host is deleted, its certificate ends, or the server stops. A newer one
/// stays.
struct Ends {
    reverse: Arc<Reverse>,
    host: HostId,
    link: String,
}

impl Drop for Ends {
    fn drop(&mut self) {
        let mut held = open(&self.reverse.held);
        let is_held = |(link, _): &(String, Tunnel)| *link == self.link;
        if held.get(&self.host).is_some_and(is_held) {
            held.remove(&self.host);
        }
        drop(held);
        if !self.reverse.store.is_shared() {
            return;
        }
        let (reverse, host) = (Arc::clone(&self.reverse), self.host.clone());
        let link = std::mem::take(&mut self.link);
        tokio::spawn(async move {
            if let Err(error) = reverse.note_end(&host, &link).await {
                tracing::debug!(%error, "a link that has ended stays in the books until the next");
            }
        });
    }
}

fn is_replica(id: &SpiffeId, domain: &TrustDomain) -> bool {
    let name = id.path().strip_prefix("/control-plane/");
    id.is_member_of(domain) && name.is_some_and(|name| !name.is_empty())
}

impl Fleet {
    /// Holds a connection on which a host waits for calls, until it ends. Whoever made it was
    /// admitted by the machines' door; what is no host's connection is closed.
    pub async fn hold(&self, peer: &SpiffeId, connection: BoxedStream) {
        let Some(host) = self.host_of(peer) else {
            tracing::warn!(%peer, "what is no host waits for calls; it is sent away");
            return;
        };
        tracing::info!(%host, "a host waits for calls on a connection of its own");
        match self.connector.reverse().hold(&host, connection).await {
            Ok(()) => tracing::info!(%host, "a host has ended its connection"),
            Err(error) => tracing::info!(%host, %error, "a host's connection broke"),
        }
    }

    /// Passes streams on from another server to the hosts whose connections are held here, until its
    /// connection ends. It cannot be used by hosts.
    pub async fn pass_on(&self, peer: &SpiffeId, connection: BoxedStream) {
        if !is_replica(peer, self.authority.trust_domain()) {
            tracing::warn!(%peer, "only a server may have streams passed on; it is sent away");
            return;
        }
        let reverse = Arc::clone(self.connector.reverse());
        let open_here = move |name: String| {
            let reverse = Arc::clone(&reverse);
            async move {
                let host = HostId::named(name);
                let held = open(&reverse.held)
                    .get(&host)
                    .map(|(_, tunnel)| tunnel.clone());
                match held {
                    Some(tunnel) => tunnel.open(host.as_str()).await,
                    None => Err(io::ErrorKind::NotConnected.into()),
                }
            }
        };
        if let Err(error) = serve_streams(connection, open_here).await {
            tracing::debug!(%peer, %error, "another server's connection broke");
        }
    }
}
