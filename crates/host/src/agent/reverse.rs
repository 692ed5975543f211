//! The reverse connection: a host that nobody can dial connects to the machines' door and waits
//! there for what is to be asked of it.
//!
//! What comes on it are streams, each joined with the host's own door: whoever calls through it
//! shakes hands with that door as if it had dialled it. The connection is made anew when it breaks,
//! at growing pauses, and when the host has a newer identity; the one before lives on until the
//! control plane ends it with the certificate that it began with.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hostler_identity::tunnel::{ALPN_REVERSE, serve_streams};
use hostler_identity::{Authorizer, Source, client_config};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::{self, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{debug, info, warn};
use url::Url;

use super::backoff::Backoff;
use super::life::draw;

const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// For TCP and the handshake.
const CONNECTING: Duration = Duration::from_secs(15);
/// A connection that lived for so long was a good one: the next failure is a first one.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// What is needed to connect, and what streams are joined with.
#[derive(Clone)]
pub(crate) struct Reverse {
    pub(crate) machines_url: Url,
    pub(crate) source: Source,
    pub(crate) control_plane: Authorizer,
    pub(crate) door: SocketAddr,
}

impl Reverse {
    /// Keeps a connection for as long as it is polled.
    pub(crate) async fn keep(mut self) {
        let mut failures = 0;
        let mut living = JoinSet::new();
        loop {
            match self.connect().await {
                Ok(stream) => {
                    info!(to = %self.machines_url, "waiting for calls on a connection of our own");
                    let begun = Instant::now();
                    let door = self.door;
                    let newest = living.spawn(async move {
                        serve_streams(stream, move |_| TcpStream::connect(door)).await
                    });
                    if self.renewed_or_broken(&mut living, newest.id()).await {
                        failures = 0;
                        continue;
                    }
                    if begun.elapsed() > GOOD_AFTER {
                        failures = 0;
                    }
                }
                Err(error) if failures == 0 => {
                    warn!(%error, "the control plane cannot reach this host: no connection to it");
                }
                Err(error) => debug!(%error, "still no connection to the control plane"),
            }
            failures += 1;
            tokio::time::sleep(PAUSES.delay(failures, draw())).await;
        }
    }

    /// Waits until another connection is wanted; whether that is for a newer identity. Calls come on
    /// the newest one only, so it is missed also while one that it has replaced lives on.
    async fn renewed_or_broken(
        &mut self,
        living: &mut JoinSet<io::Result<()>>,
        newest: task::Id,
    ) -> bool {
        let before = self.identity();
        loop {
            tokio::select! {
                ended = living.join_next_with_id() => {
                    let ended = match ended {
                        Some(Ok((id, outcome))) => {
                            if let Err(error) = outcome {
                                info!(%error, "a connection of our own broke");
                            }
                            id
                        }
                        Some(Err(panicked)) => panicked.id(),
                        None => return false,
                    };
                    if ended == newest {
                        return false;
                    }
                }
                changed = self.source.changed() => match changed {
                    Ok(()) => {
                        let now = self.identity();
                        if now.is_some() && now != before {
                            return true;
                        }
                    }
                    // The agent ends, and this with it.
                    Err(_) => return std::future::pending().await,
                },
            }
        }
    }

    /// What tells one certificate of this host from the next.
    fn identity(&self) -> Option<Vec<u8>> {
        let svid = self.source.svid().ok()?;
        svid.chain().first().map(|leaf| leaf.to_vec())
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let mut config = client_config(&self.source, self.control_plane.clone());
        config.alpn_protocols = vec![ALPN_REVERSE.to_vec()];
        let host = self.machines_url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.machines_url.port_or_known_default().unwrap_or(443);
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let connecting = async {
            let tcp = TcpStream::connect((bare, port)).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(Arc::new(config))
                .connect(name, tcp)
                .await?;
            match tls.get_ref().1.alpn_protocol() == Some(ALPN_REVERSE) {
                true => Ok(tls),
                false => Err(io::Error::other(
                    "the control plane does not take such connections; give this host an \
                     --address, or use a newer server",
                )),
            }
        };
        match tokio::time::timeout(CONNECTING, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
#[path = "../../tests/it/certs.rs"]
#[allow(dead_code)]
mod certs;

#[cfg(test)]
mod tests {
    use hostler_identity::tunnel::Tunnel;
    use hostler_identity::{Acceptor, server_config};
    use tokio::net::TcpListener;
    use tokio_util::task::AbortOnDropHandle;

    use super::certs::Ca;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// The machines' door, for hosts that wait for calls.
    struct Plane {
        listener: TcpListener,
        acceptor: Acceptor,
    }

    type Held = (Tunnel, AbortOnDropHandle<io::Result<()>>);

    impl Plane {
        async fn takes_one(&self) -> Held {
            let taken = async {
                let (tcp, _) = self.listener.accept().await.unwrap();
                let (tls, _) = self.acceptor.accept(tcp).await.unwrap();
                let (tunnel, driven) = Tunnel::over(tls).await.unwrap();
                (tunnel, AbortOnDropHandle::new(tokio::spawn(driven)))
            };
            let taken = tokio::time::timeout(PATIENCE, taken).await;
            taken.expect("the host connects")
        }
    }

    #[tokio::test]
    async fn a_host_whose_newest_connection_breaks_makes_another_though_an_older_one_lives() {
        let ca = Ca::of_trust_domain();
        let (plane, _presented) = Source::memory(ca.svid("/control-plane/1"), ca.bundles());
        let (source, writer) = Source::memory(ca.svid("/host/a"), ca.bundles());
        let anybody = Authorizer::any();
        let mut tls = server_config(&plane, anybody.clone());
        tls.alpn_protocols = vec![ALPN_REVERSE.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plane = Plane {
            listener,
            acceptor: Acceptor::new(tls),
        };
        let reverse = Reverse {
            machines_url: format!("https://{address}").parse().unwrap(),
            source,
            control_plane: anybody,
            door: address,
        };
        let _keeping = AbortOnDropHandle::new(tokio::spawn(reverse.keep()));
        let (older, _driven) = plane.takes_one().await;
        writer.replace(ca.svid("/host/a"), ca.bundles());
        drop(plane.takes_one().await);
        let (newest, _driven_too) = plane.takes_one().await;
        assert!(!older.is_closed(), "the one that was replaced was cut");
        assert!(!newest.is_closed());
    }
}
