//! What the layer of operations costs over a handler that was written by hand. No sockets: both
//! routers are called in this process, one request after the other.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use hostler_gateway::{HttpAdapter, RequestLimits};
use tower::ServiceExt as _;

use super::shelf::{self, Clock, Porter};
use super::{ROUNDS, on_one_thread};
use crate::table::{Table, median};

const REQUESTS: u32 = 100_000;

pub(super) fn measure(table: &mut Table) {
    on_one_thread().block_on(async {
        let mut limits = RequestLimits::default();
        (limits.strangers, limits.callers) = (None, None);
        let registry = shelf::registry(&Clock::start());
        let adapter = HttpAdapter::builder(registry, Arc::new(Porter)).limits(limits);
        let ours = adapter.build().expect("an adapter").router();
        let bare = shelf::bare();
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            with.push(micros_each(&ours).await);
            without.push(micros_each(&bare).await);
        }
        let layer = with
            .iter()
            .zip(&without)
            .map(|(with, without)| with - without);
        let layer = median(layer.collect());
        let (with, without) = (median(with), median(without));
        table.row(
            "the layer of operations, a call: with, without, difference",
            format!("{with:.2} µs, {layer:.2} µs more"),
            format!("{without:.2} µs"),
            "-",
            "at most 5 µs more",
        );
    });
}

async fn micros_each(router: &Router) -> f64 {
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let request = http::Request::get(shelf::PATH)
            .header("authorization", format!("Bearer {}", shelf::TOKEN))
            .body(Body::empty());
        let answer = router.clone().oneshot(request.expect("a request")).await;
        let answer = answer.unwrap_or_else(|never| match never {});
        assert_eq!(answer.status(), 200);
        let body = axum::body::to_bytes(answer.into_body(), 1024).await;
        black_box(body.expect("a body"));
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(REQUESTS)
}
