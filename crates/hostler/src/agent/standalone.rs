//! A host without a control plane: its operators are those with a certificate of its CA.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use hostler_gateway::{AuthError, Credentials, Door, DoorLimits, Doorway, IdentityProvider};
use hostler_host::Host;
use hostler_identity::{Certificates, Holder};
use hostler_operations::Identity;
use hostler_vmm::Machines;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// A standalone host with its door open.
pub(super) struct StandaloneRoom {
    door: Door,
}

impl StandaloneRoom {
    pub(super) async fn open(
        certificates: &Certificates,
        machines: Machines,
        listen: SocketAddr,
    ) -> Result<Self, Failure> {
        let host = Arc::new(Host::new(machines));
        let adapter = super::adapter(&host, Arc::new(Operators(Arc::clone(&host))))?;
        let doorway = Doorway::bind(listen).await?;
        let tls = certificates.server_config();
        let door = doorway.door(&tls, &adapter, DoorLimits::default());
        Ok(Self { door })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.door.local_addr()
    }

    /// Serves until it is told to stop, and what is in flight is done.
    pub(super) async fn serve(self, stop: CancellationToken) {
        self.door.serve(stop).await;
    }
}

/// Who calls a standalone host: its handshake has let in nobody without a certificate of its CA.
struct Operators(Arc<Host>);

impl IdentityProvider for Operators {
    fn resolve<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>> {
        let holder = credentials.certificate.as_deref().and_then(Holder::of);
        let identity = holder.map(|holder| self.0.identify_holder(&holder));
        Box::pin(std::future::ready(Ok(identity)))
    }
}
