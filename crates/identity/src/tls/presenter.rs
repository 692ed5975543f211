//! What we show of ourselves in a handshake.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::warn;

use crate::source::Source;

/// Presents the source's identity as it is at the moment of the handshake; nothing when there is
/// none to present.
#[derive(Debug)]
pub(super) struct Presenter {
    source: Source,
}

impl Presenter {
    pub(super) fn new(source: Source) -> Self {
        Self { source }
    }

    fn present(&self) -> Option<Arc<CertifiedKey>> {
        match self.source.current(Timestamp::now()) {
            Ok(material) => Some(Arc::clone(material.svid.certified())),
            Err(reason) => {
                warn!(%reason, "handshake without an identity to present");
                None
            }
        }
    }
}

impl ResolvesServerCert for Presenter {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.present()
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.present()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
