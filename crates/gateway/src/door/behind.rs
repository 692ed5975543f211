//! What answers the requests that come through a door.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::future::{BoxFuture, FutureExt as _};
use http::{Request, Version, request};
use tower::Service as _;

use super::complete::without_connection;
use crate::adapter::HttpAdapter;
use crate::connection::ConnectionInfo;
use crate::dispatch::Dispatch;

/// What is behind a [`Door`](crate::Door): an [`HttpAdapter`], or an axum router. Cheap to clone.
#[derive(Clone)]
pub struct Behind(Way);

#[derive(Clone)]
enum Way {
    /// A router would match, clone and box for each request, only to find that it goes this way.
    Straight(Arc<Dispatch>),
    Routed(Router),
}

impl From<&HttpAdapter> for Behind {
    fn from(adapter: &HttpAdapter) -> Self {
        let straight = adapter.alone().map(Way::Straight);
        Self(straight.unwrap_or_else(|| Way::Routed(adapter.router())))
    }
}

impl From<Router> for Behind {
    fn from(router: Router) -> Self {
        Self(Way::Routed(router))
    }
}

impl Behind {
    /// Answers a request that this connection brought.
    pub(super) fn answer(
        &self,
        head: request::Parts,
        body: Body,
        connection: &ConnectionInfo,
    ) -> BoxFuture<'static, Response> {
        match &self.0 {
            Way::Straight(dispatch) => {
                Arc::clone(dispatch).serve(head, body, Some(connection.clone()))
            }
            Way::Routed(router) => {
                let has_connection = head.version <= Version::HTTP_11;
                let mut request = Request::from_parts(head, body);
                if let Some(peer) = connection.peer() {
                    request.extensions_mut().insert(peer.clone());
                }
                request.extensions_mut().insert(connection.clone());
                // A router is always ready.
                let answering = router.clone().call(request);
                let answering = answering.map(move |Ok(mut response)| {
                    if !has_connection {
                        without_connection(response.headers_mut());
                    }
                    response
                });
                answering.boxed()
            }
        }
    }
}

impl fmt::Debug for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behind").finish_non_exhaustive()
    }
}
