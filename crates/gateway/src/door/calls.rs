//! The call protocol on a QUIC connection of its own (ALPN `hostler/call`).

use std::sync::Arc;

use super::serve::{Shared, almost_expired};
use crate::connection::ConnectionInfo;

/// Serves a connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    connection: quinn::Connection,
    info: ConnectionInfo,
) {
    // It is only spoken by doors that serve it.
    let Some(calls) = &shared.calls else {
        return;
    };
    let expiring = almost_expired(info.expires_at());
    let leave = async {
        tokio::select! {
            () = shared.shutdown.cancelled() => {}
            () = expiring => {}
        }
    };
    calls
        .on_a_connection(connection, info, &shared.limits, leave)
        .await;
}
