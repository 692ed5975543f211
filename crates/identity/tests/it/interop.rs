//! An implementation that we did not write on the other end: `spiffe-rustls` on the `spiffe`
//! crate's source, both ways.

use std::sync::Arc;

use hostler_identity::{Authorizer, Client, ClientError, SpiffeId};
use spiffe_rustls::{LocalOnly, TerminalSourcePolicy, TrustDomain, authorizer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::agent::Agent;
use crate::certs::Ca;
use crate::support::{Running, attempt, soon, source};

async fn their_source(agent: &Agent) -> spiffe::X509Source {
    soon(
        spiffe::X509Source::builder()
            .endpoint(&agent.endpoint)
            .build(),
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn a_spiffe_rustls_client_and_our_server_recognise_each_other() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    agent.give(&ca, ca.raw("/web", |_| {}), &[]);
    let (api, _a) = source(&ca, "/api");
    let running = Running::new(&api, Authorizer::any()).await;
    let client = |server: &'static str| {
        let agent = &agent;
        async move {
            spiffe_rustls::mtls_client(their_source(agent).await)
                .authorize(authorizer::exact([server]).unwrap())
                .trust_domain_policy(LocalOnly(TrustDomain::new("a.example").unwrap()))
                .terminal_source_policy(TerminalSourcePolicy::FailClosed)
                .build()
                .unwrap()
        }
    };
    let answer = attempt(running.address, client("spiffe://a.example/api").await)
        .await
        .unwrap();
    assert!(answer.ends_with(b"spiffe://a.example/web"), "{answer:?}");
    assert!(
        attempt(running.address, client("spiffe://a.example/other").await)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn our_client_and_a_spiffe_rustls_server_recognise_each_other() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    agent.give(&ca, ca.raw("/api", |_| {}), &[]);
    let config = spiffe_rustls::mtls_server(their_source(&agent).await)
        .authorize(authorizer::exact(["spiffe://a.example/web"]).unwrap())
        .with_alpn_protocols([b"http/1.1"])
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut request = [0; 1024];
            let _ = tls.read(&mut request).await.unwrap();
            tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
                .await
                .unwrap();
        }
    });
    let api: SpiffeId = "spiffe://a.example/api".parse().unwrap();
    let (web, _w) = source(&ca, "/web");
    let answer = soon(Client::new(&web, Authorizer::id(api.clone())).get(&url))
        .await
        .unwrap();
    assert_eq!(answer.body(), "hello");
    assert_eq!(answer.version(), http::Version::HTTP_11);

    let (other, _o) = source(&ca, "/other");
    let refused = soon(Client::new(&other, Authorizer::id(api)).get(&url))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ClientError::RefusedByServer { .. }),
        "{refused:?}"
    );
    server.abort();
}
