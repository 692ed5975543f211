//! What people wait for while the fleet is large.

use super::wire::request;
use super::{Crowd, at};
use crate::host::ms;
use crate::table::Table;

/// How often each question is asked.
const TIMES: usize = 500;

pub(crate) async fn measure(crowd: &Crowd, size: usize, table: &mut Table) {
    let page = request("GET", "/v1/hosts?limit=100", &crowd.as_admin(), "");
    ask(
        crowd,
        &page,
        table,
        &format!("{size} hosts: a page of 100"),
        "p99 5 ms",
    )
    .await;
    let body = r#"{"cpus":1,"memory_mb":512}"#;
    let place = request("POST", "/v1/vms/place", &crowd.as_admin(), body);
    ask(
        crowd,
        &place,
        table,
        &format!("{size} hosts: a placement"),
        "p99 2 ms",
    )
    .await;
}

async fn ask(crowd: &Crowd, request: &[u8], table: &mut Table, what: &str, asked: &str) {
    let mut wire = crowd.door.connect().await.expect("a connection");
    wire.json(request).await.expect("a success");
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let begun = std::time::Instant::now();
        let status = wire.status(request).await.expect("an answer");
        times.push(ms(begun.elapsed()));
        assert_eq!(status, 200);
    }
    let (p50, p99) = (at(&mut times, 50), at(&mut times, 99));
    table.row(
        what,
        format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
        "-",
        "-",
        asked,
    );
}
