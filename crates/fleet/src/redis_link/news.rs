//! Servers hear at once what others have changed. Who misses it looks by itself, twice a second.

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, watch};

use super::RedisLink;

/// On which whoever has changed something says its own name.
pub(super) const CHANNEL: &str = "news";

impl RedisLink {
    /// Changes whenever another server says that it has changed something.
    pub(crate) fn hears(&self) -> watch::Receiver<()> {
        self.heard.subscribe()
    }

    /// Hears others and tells them, until the connection is lost.
    pub(super) async fn listen(
        &self,
        pushes: &mut mpsc::UnboundedReceiver<PushInfo>,
        changes: &mut watch::Receiver<u64>,
    ) {
        loop {
            tokio::select! {
                () = self.broken.notified() => return,
                push = pushes.recv() => match push {
                    None => return,
                    Some(PushInfo { kind: PushKind::Disconnection, .. }) => return,
                    Some(PushInfo { kind: PushKind::Message, data }) => {
                        if !self.is_own(&data) {
                            self.heard.send_replace(());
                        }
                    }
                    Some(_) => {}
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let mut tell = redis::pipe();
                    tell.publish(self.key(CHANNEL), &self.replica).ignore();
                    // What is lost is found by looking.
                    let _: Option<()> = self.ask(&tell).await;
                }
            }
        }
    }

    /// Whether a message (its channel, and what was said) is this server's.
    fn is_own(&self, message: &[Value]) -> bool {
        matches!(message.last(), Some(Value::BulkString(said)) if *said == self.replica.as_bytes())
    }
}
