//! A stream that is told of every change: of the entries, of the bundles, of the caller's
//! identities, and of the caller itself, who is looked at anew each time.

use std::pin::Pin;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use futures::future::{Either, pending, ready};
use futures::{Stream, StreamExt, stream};
use hostler_identity::wait_until;
use jiff::Timestamp;
use prost::Message;
use tokio::sync::watch;
use tonic::{Response, Status};

use super::connection::OpenedBy;
use super::entries::{Entries, Entry};
use super::issuer::Issuer;
use super::service::{Desk, nobody_keeps_entries};
use crate::keys::Bundles;

/// The whole state, again whenever it is another one.
pub(super) type Updates<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What a stream says.
pub(super) trait Profile<I>: 'static {
    type Message: Message + 'static;

    /// The state for a caller with these entries, and when it will be another one by itself.
    fn compose(
        desk: &Desk<I>,
        entries: &[Entry],
        bundles: &Bundles,
    ) -> impl Future<Output = Result<(Self::Message, Option<Timestamp>), Status>> + Send;
}

/// Answers at once, with the state or with the reason why there is none for this caller; then
/// goes on until the caller leaves, loses its entries, or we stop.
pub(super) async fn follow<P: Profile<I>, I: Issuer>(
    desk: &Arc<Desk<I>>,
    opened_by: OpenedBy,
) -> Result<Response<Updates<P::Message>>, Status> {
    let mut follower = Follower {
        entries: desk.entries.clone(),
        bundles: desk.bundles.clone(),
        desk: Arc::clone(desk),
        opened_by,
        due: None,
        sent: None,
    };
    let first = follower.next::<P>().await?;
    let rest = stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        match follower.next::<P>().await {
            Ok(message) => Some((Ok(message), Some(follower))),
            Err(status) => Some((Err(status), None)),
        }
    });
    let updates = stream::once(ready(Ok(first))).chain(rest);
    Ok(Response::new(Box::pin(updates)))
}

struct Follower<I> {
    desk: Arc<Desk<I>>,
    opened_by: OpenedBy,
    entries: watch::Receiver<Entries>,
    bundles: watch::Receiver<Bundles>,
    due: Option<Timestamp>,
    /// The digest of what was sent last: no key is kept here.
    sent: Option<Digest>,
}

type Digest = [u8; 32];

impl<I: Issuer> Follower<I> {
    /// The next state that is not the one that was sent last.
    async fn next<P: Profile<I>>(&mut self) -> Result<P::Message, Status> {
        loop {
            if self.sent.is_some() {
                self.change().await?;
            }
            let (entries, bundles) = (
                self.entries.borrow_and_update().clone(),
                self.bundles.borrow_and_update().clone(),
            );
            let entries = self.desk.entitled(&self.opened_by, entries).await?;
            let (message, due) = P::compose(&self.desk, &entries, &bundles).await?;
            self.due = due;
            let now = digest_of(&message);
            if self.sent != Some(now) {
                self.sent = Some(now);
                return Ok(message);
            }
        }
    }

    async fn change(&mut self) -> Result<(), Status> {
        let due = match self.due {
            Some(due) => Either::Left(wait_until(due)),
            None => Either::Right(pending()),
        };
        tokio::select! {
            () = self.desk.stopping.cancelled() => {
                Err(Status::unavailable("the Workload API is stopping"))
            }
            changed = self.entries.changed() => changed.map_err(|_| nobody_keeps_entries()),
            changed = self.bundles.changed() => {
                changed.map_err(|_| Status::unavailable("the authority is stopping"))
            }
            () = due => Ok(()),
        }
    }
}

fn digest_of(message: &impl Message) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, &message.encode_to_vec()).as_ref());
    bytes
}
