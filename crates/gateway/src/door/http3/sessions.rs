//! The WebTransport sessions of one connection, and where what comes for each of them goes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use quinn::{RecvStream, SendStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedSender};

/// Sessions at one time on one connection.
pub(super) const SESSIONS: usize = 16;

/// Datagrams that wait for one session; further ones are lost.
const DATAGRAMS: usize = 64;

type Stream = (SendStream, RecvStream);

/// See the [module](self).
#[derive(Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<u64, Open>>,
    changed: Notify,
}

struct Open {
    streams: UnboundedSender<Stream>,
    datagrams: mpsc::Sender<Bytes>,
}

/// A session that is open until this is dropped.
pub(super) struct Opened<'s> {
    sessions: &'s Sessions,
    id: u64,
}

impl Sessions {
    fn open_ones(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        // Every change is whole before anything can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session, if there is room for one, with the streams and datagrams that come for it.
    pub(super) fn open(
        &self,
        id: u64,
    ) -> Option<(
        Opened<'_>,
        BoxStream<'static, Stream>,
        BoxStream<'static, Bytes>,
    )> {
        // There are only as many as the connection may have at one time.
        let (streams, mut opened) = mpsc::unbounded_channel();
        let (datagrams, mut received) = mpsc::channel(DATAGRAMS);
        {
            let mut open = self.open_ones();
            if open.len() >= SESSIONS {
                return None;
            }
            open.insert(id, Open { streams, datagrams });
        }
        self.changed.notify_waiters();
        let opened = stream::poll_fn(move |cx| opened.poll_recv(cx));
        let received = stream::poll_fn(move |cx| received.poll_recv(cx));
        let session = Opened { sessions: self, id };
        Some((session, opened.boxed(), received.boxed()))
    }

    /// Where the streams of this session go, once it is open.
    pub(super) async fn opened(&self, id: u64) -> UnboundedSender<Stream> {
        loop {
            let changed = self.changed.notified();
            let streams = self.open_ones().get(&id).map(|open| open.streams.clone());
            if let Some(streams) = streams {
                return streams;
            }
            changed.await;
        }
    }

    pub(super) fn deliver(&self, id: u64, datagram: Bytes) {
        if let Some(open) = self.open_ones().get(&id) {
            // That is what datagrams are like.
            let _ = open.datagrams.try_send(datagram);
        }
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.sessions.open_ones().remove(&self.id);
    }
}
