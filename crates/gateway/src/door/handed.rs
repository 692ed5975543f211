//! Protocols that are not HTTP: a connection that asks for one of them in the handshake is handed
//! over.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use hostler_identity::tunnel::BoxedStream;

use crate::connection::ConnectionInfo;

/// A connection whose handshake is done.
pub struct Handed {
    /// What comes and goes on it.
    pub stream: BoxedStream,
    /// Who is on the other end.
    pub connection: ConnectionInfo,
}

type Handler = Arc<dyn Fn(Handed) -> BoxFuture<'static, ()> + Send + Sync>;

/// Who takes which protocol.
#[derive(Clone, Default)]
pub(super) struct Handlers(Vec<(Vec<u8>, Handler)>);

impl Handlers {
    pub(super) fn add<H, F>(&mut self, protocol: &[u8], handler: H)
    where
        H: Fn(Handed) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |handed| Box::pin(handler(handed)));
        self.0.push((protocol.to_vec(), handler));
    }

    pub(super) fn of(&self, protocol: Option<&[u8]>) -> Option<&Handler> {
        let mut all = self.0.iter();
        let found = all.find(|(known, _)| Some(known.as_slice()) == protocol);
        found.map(|(_, handler)| handler)
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| String::from_utf8_lossy(name));
        f.debug_list().entries(names).finish()
    }
}
