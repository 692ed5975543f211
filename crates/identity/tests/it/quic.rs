//! The same identities over QUIC: two quinn endpoints.

use std::net::SocketAddr;

use hostler_identity::{
    Authorizer, PeerIdentity, Source, SpiffeId, quic_client_config, quic_server_config,
};
use quinn::{ConnectionError, Endpoint};

use crate::certs::Ca;
use crate::support::{soon, source};

const PROTOCOL: &[u8] = b"test/echo";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn listen(server: &Source, clients: Authorizer) -> (Endpoint, SocketAddr) {
    let config = quic_server_config(server, clients, &[PROTOCOL]);
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

fn dial(client: &Source, server: Authorizer) -> Endpoint {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quic_client_config(client, server, &[PROTOCOL]));
    endpoint
}

/// Answers one connection's one question with who asks.
async fn serve_one(endpoint: &Endpoint) -> Result<(), ConnectionError> {
    let connection = endpoint.accept().await.unwrap().await?;
    let peer = PeerIdentity::from_quic_connection(&connection).unwrap();
    let (mut answer, mut question) = connection.accept_bi().await?;
    question.read_to_end(64).await.unwrap();
    answer
        .write_all(peer.id().to_string().as_bytes())
        .await
        .unwrap();
    answer.finish().unwrap();
    connection.closed().await;
    Ok(())
}

#[tokio::test]
async fn members_recognise_each_other_over_quic_and_the_next_handshake_takes_the_renewed_svid() {
    let ca = Ca::new("a.example");
    let ((api, writer), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let (server, address) = listen(&api, Authorizer::id(id("spiffe://a.example/web")));
    let client = dial(&web, Authorizer::id(id("spiffe://a.example/api")));
    for _ in 0..2 {
        let renewed = ca.svid("/api");
        writer.replace_svid(renewed.clone());
        let ask = async {
            let connection = client.connect(address, "any.name").unwrap().await.unwrap();
            let peer = PeerIdentity::from_quic_connection(&connection).unwrap();
            assert_eq!(peer.id(), &id("spiffe://a.example/api"));
            assert_eq!(peer.expires_at(), renewed.not_after());
            let (mut question, mut answer) = connection.open_bi().await.unwrap();
            question.write_all(b"who am I?").await.unwrap();
            question.finish().unwrap();
            let answer = answer.read_to_end(64).await.unwrap();
            assert_eq!(answer, b"spiffe://a.example/web");
            connection.close(0_u8.into(), b"");
        };
        let ((), served) = soon(async { tokio::join!(ask, serve_one(&server)) }).await;
        served.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_is_not_authorized_is_refused_over_quic() {
    let ca = Ca::new("a.example");
    let ((api, _a), (other, _o)) = (source(&ca, "/api"), source(&ca, "/other"));
    let (server, address) = listen(&api, Authorizer::id(id("spiffe://a.example/web")));
    let client = dial(&other, Authorizer::any());
    let ask = async {
        // In TLS 1.3 the client is done first; the refusal follows.
        match client.connect(address, "any.name").unwrap().await {
            Ok(connection) => connection.closed().await,
            Err(refused) => refused,
        }
    };
    let (refused, served) = soon(async { tokio::join!(ask, serve_one(&server)) }).await;
    assert!(
        matches!(refused, ConnectionError::ConnectionClosed(_)),
        "{refused:?}"
    );
    assert!(served.is_err());
}

#[tokio::test]
async fn a_wrong_server_is_left_over_quic() {
    let ca = Ca::new("a.example");
    let ((impostor, _i), (web, _w)) = (source(&ca, "/impostor"), source(&ca, "/web"));
    let (server, address) = listen(&impostor, Authorizer::any());
    let client = dial(&web, Authorizer::id(id("spiffe://a.example/api")));
    let ask = async { client.connect(address, "any.name").unwrap().await };
    let (refused, served) = soon(async { tokio::join!(ask, serve_one(&server)) }).await;
    assert!(
        matches!(refused, Err(ConnectionError::TransportError(_))),
        "{refused:?}"
    );
    assert!(served.is_err(), "the impostor never had a connection");
}
