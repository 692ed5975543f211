//! The crates `spiffe` and `spiffe-rustls` on our socket, over renewals and a new root.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use hostler_identity::{Authorizer, Client, ClientError};
use rustls_pki_types::ServerName;
use spiffe::X509Source;
use spiffe_rustls::{LocalOnly, TerminalSourcePolicy, TrustDomain, authorizer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::house::{House, Serving, Socket, id, soon};

async fn their_source(socket: &Socket) -> X509Source {
    let source = X509Source::builder().endpoint(&socket.endpoint).build();
    soon(source).await.unwrap()
}

/// Their client asks our server, which must be `only`.
async fn call(source: X509Source, only: &str, ours: &Serving) -> std::io::Result<String> {
    let config = spiffe_rustls::mtls_client(source)
        .authorize(authorizer::exact([only]).unwrap())
        .trust_domain_policy(LocalOnly(TrustDomain::new("a.example").unwrap()))
        .terminal_source_policy(TerminalSourcePolicy::FailClosed)
        .build()
        .unwrap();
    let tcp = TcpStream::connect(ours.address).await?;
    let name = ServerName::from(ours.address.ip());
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    tls.write_all(b"GET / HTTP/1.1\r\nhost: ours\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Their server, for one client alone.
async fn serve(source: X509Source, only: &str) -> (SocketAddr, JoinHandle<()>) {
    let config = spiffe_rustls::mtls_server(source)
        .authorize(authorizer::exact([only]).unwrap())
        .with_alpn_protocols([b"http/1.1"])
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serving = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut request = [0; 1024];
            let _ = tls.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\nhello from a crate";
            let _ = tls.write_all(answer).await;
        }
    });
    (address, serving)
}

#[tokio::test]
async fn spiffe_rustls_speaks_with_us_both_ways_over_renewals_and_a_new_root() {
    let house = House::hasty();
    let socket = house.socket(Some("/crate"));
    let ours = house.server("/ours", Authorizer::id(id("/crate"))).await;
    let us = house.source("/ours");
    let watched = their_source(&socket).await;
    let mut updates = watched.updated();
    let (address, serving) = serve(their_source(&socket).await, "spiffe://a.example/ours").await;
    let url = format!("https://{address}/");
    let (mut leaves, mut roots) = (BTreeSet::new(), BTreeSet::new());
    // Until the first root is out of the bundle: by then the second one signs.
    loop {
        let svid = watched.svid().expect("it is renewed before it expires");
        leaves.insert(svid.cert_chain()[0].as_bytes().to_vec());
        let bundle = watched.bundle_set().unwrap();
        let bundle = bundle.get(house.authority.trust_domain()).unwrap();
        let present: Vec<_> = bundle
            .authorities()
            .iter()
            .map(|root| root.as_bytes().to_vec())
            .collect();
        roots.extend(present.iter().cloned());
        let answer = soon(call(watched.clone(), "spiffe://a.example/ours", &ours))
            .await
            .unwrap();
        assert!(
            answer.ends_with("hello, spiffe://a.example/crate"),
            "{answer}"
        );
        let client = Client::new(&us, Authorizer::id(id("/crate")));
        assert_eq!(
            soon(client.get(&url)).await.unwrap().body(),
            "hello from a crate"
        );
        if roots.iter().any(|root| !present.contains(root)) {
            break;
        }
        soon(updates.changed()).await.unwrap();
    }
    assert!(leaves.len() > 3);
    serving.abort();
}

#[tokio::test]
async fn spiffe_rustls_and_we_refuse_whoever_is_not_expected() {
    let house = House::new();
    let socket = house.socket(Some("/crate"));
    let ours = house.server("/ours", Authorizer::any()).await;
    let theirs = || their_source(&socket);
    let wrong = call(theirs().await, "spiffe://a.example/other", &ours).await;
    assert!(wrong.is_err(), "{wrong:?}");
    let others = house.server("/ours", Authorizer::id(id("/other"))).await;
    let refused = call(theirs().await, "spiffe://a.example/ours", &others).await;
    assert!(refused.is_err(), "{refused:?}");

    let (address, serving) = serve(theirs().await, "spiffe://a.example/ours").await;
    let url = format!("https://{address}/");
    let client = |path, server| Client::new(&house.source(path), Authorizer::id(id(server)));
    let wrong = soon(client("/ours", "/other").get(&url)).await.unwrap_err();
    assert!(
        matches!(wrong, ClientError::WrongServer { .. }),
        "{wrong:?}"
    );
    let refused = soon(client("/stranger", "/crate").get(&url))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ClientError::RefusedByServer { .. }),
        "{refused:?}"
    );
    serving.abort();
}
