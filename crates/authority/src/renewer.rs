//! Keeps this process's own identity fresh.

use std::time::Duration;

use hostler_identity::{SourceWriter, SpiffeId, renewal_due, wait_until};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tracing::warn;

use crate::authority::Authority;
use crate::keys::Bundles;
use crate::random;

/// After a failed renewal. Half of a certificate's life is left to try again in.
const RETRY: Duration = Duration::from_secs(5);

/// Renews at half-life and when another root signs, and follows the bundle, until nobody uses the
/// source any more.
pub(crate) async fn renew(
    authority: Authority,
    id: SpiffeId,
    writer: SourceWriter,
    mut bundles: watch::Receiver<Bundles>,
) {
    let mut due = next(&writer);
    let mut signer = bundles.borrow().signer.clone();
    loop {
        tokio::select! {
            () = writer.unused() => return,
            // The sender lives in `authority`, which this task holds.
            _ = bundles.changed() => {
                let now = bundles.borrow_and_update().clone();
                if writer.bundles().as_ref() != Some(&now.x509) {
                    writer.replace_bundles(now.x509);
                }
                if now.signer != signer {
                    (signer, due) = (now.signer, Timestamp::now());
                }
            }
            () = wait_until(due) => match authority.issue_own(&id, Timestamp::now()) {
                Ok(svid) => {
                    writer.replace(svid, bundles.borrow_and_update().x509.clone());
                    due = next(&writer);
                }
                Err(error) => {
                    warn!(%id, %error, "cannot renew our own identity; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            },
        }
    }
}

/// When to renew what was issued just now. Counted from now and not from `notBefore`, which lies
/// in the past and would make a very short life over before it began; and not more often than
/// once a second, whatever the lifetimes.
fn next(writer: &SourceWriter) -> Timestamp {
    let now = Timestamp::now();
    let due = writer
        .svid()
        .map(|svid| renewal_due(now, svid.not_after(), now, random::jitter()));
    due.unwrap_or(now).max(now + SignedDuration::from_secs(1))
}
