//! A thousand subscribers to one stream of events.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use super::servers::{OPERATIONS, Papers, Peer};
use super::{Target, on_one_thread, shelf};
use crate::host::percentile;
use crate::memory::resident_mib;
use crate::table::Table;

const SUBSCRIBERS: usize = 1000;
/// For the connections' beginnings to be over.
const SETTLE: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(10);

/// The delays of all events that came, in milliseconds.
type Delays = Rc<RefCell<Vec<f64>>>;

pub(super) fn measure(papers: &Papers, table: &mut Table) {
    let server = Peer::start(OPERATIONS, papers);
    let target = server.target();
    let mut config = papers.client();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let (tasks, delays) = (LocalSet::new(), Delays::default());
    let before = resident_mib(target.pid);
    let after = on_one_thread().block_on(tasks.run_until(async {
        for _ in 0..SUBSCRIBERS {
            let (tls, delays) = (tls.clone(), Rc::clone(&delays));
            tasks.spawn_local(subscribe(target, tls, delays));
        }
        tokio::time::sleep(SETTLE).await;
        delays.borrow_mut().clear();
        tokio::time::sleep(WATCHED).await;
        resident_mib(target.pid)
    }));
    let mut delays = delays.take();
    let rate = delays.len() as f64 / WATCHED.as_secs_f64();
    table.row(
        &format!(
            "{rate:.0} events/s to {SUBSCRIBERS} subscribers, delay at the 99th percentile (median)"
        ),
        format!(
            "{:.1} ms ({:.1} ms)",
            percentile(&mut delays, 99),
            percentile(&mut delays, 50)
        ),
        "-",
        "-",
        "under 100 ms at 50000 events/s",
    );
    table.row(
        "memory of a subscriber, with its connection",
        format!("{:.0} KiB", (after - before) * 1024.0 / SUBSCRIBERS as f64),
        "-",
        "-",
        "at most 100 KiB",
    );
}

async fn subscribe(target: Target, tls: TlsConnector, delays: Delays) {
    let tcp = TcpStream::connect(target.address)
        .await
        .expect("a connection");
    let name = ServerName::from(target.address.ip());
    let mut stream = tls.connect(name, tcp).await.expect("a handshake");
    let request = b"POST /ticks/watch HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n\
                    content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request).await.expect("sent");
    let mut text = Vec::with_capacity(1024);
    loop {
        let read = stream.read_buf(&mut text).await.expect("events");
        assert_ne!(read, 0, "the stream has ended");
        let now = shelf::now_ns();
        let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let whole = String::from_utf8_lossy(&text[..end]);
        for number in whole.split("\"at_ns\":").skip(1) {
            let digits = number.split(|c: char| !c.is_ascii_digit()).next();
            let at: u64 = digits.unwrap_or_default().parse().expect("a number");
            let delay = now.saturating_sub(at) as f64 / 1e6;
            delays.borrow_mut().push(delay);
        }
        text.drain(..=end);
    }
}
