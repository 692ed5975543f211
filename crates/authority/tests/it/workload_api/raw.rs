//! What client libraries do not do: requests made by hand.

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Running, soon, web};
use crate::support::new;

/// Both kinds of calls, as long as only the status matters.
const STREAMS: [&str; 3] = ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"];
const CALLS: [&str; 2] = ["FetchJWTSVID", "ValidateJWTSVID"];

async fn channel(running: &Running) -> Channel {
    let path = running.path.clone();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://socket");
    soon(endpoint.connect_with_connector(connector))
        .await
        .unwrap()
}

/// Sends this message (`()` is the empty one) with this value of the security header.
async fn call<M: prost::Message + Default + 'static>(
    channel: &Channel,
    method: &str,
    message: M,
    header: Option<&'static str>,
) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    soon(grpc.ready()).await.unwrap();
    let mut request = Request::new(message);
    if let Some(value) = header {
        let value = value.parse().unwrap();
        request.metadata_mut().insert("workload.spiffe.io", value);
    }
    let path: PathAndQuery = format!("/SpiffeWorkloadAPI/{method}").parse().unwrap();
    let codec = ProstCodec::<M, ()>::default();
    if STREAMS.contains(&method) {
        let answer = soon(grpc.server_streaming(request, path, codec)).await?;
        soon(answer.into_inner().message()).await.map(drop)
    } else {
        soon(grpc.unary(request, path, codec)).await.map(drop)
    }
}

#[tokio::test]
async fn a_request_without_the_security_header_is_refused_on_every_call() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let channel = channel(&running).await;
    for method in STREAMS.iter().chain(&CALLS) {
        for header in [None, Some("false"), Some("True"), Some("")] {
            let refused = call(&channel, method, (), header).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{method} {header:?}");
            assert!(
                refused.message().contains("workload.spiffe.io"),
                "{refused}"
            );
        }
    }
    for method in STREAMS {
        call(&channel, method, (), Some("true")).await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_request_for_a_token_is_the_callers_mistake() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let channel = channel(&running).await;
    for method in CALLS {
        let refused = call(&channel, method, (), Some("true")).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("audience"), "{refused}");
    }
}

#[tokio::test]
async fn a_profile_that_is_not_offered_is_unimplemented() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let channel = channel(&running).await;
    let refused = call(&channel, "FetchWITSVID", (), Some("true"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_harms_nobody() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let channel = channel(&running).await;
    // A message with one long string, where the audience stands.
    let long = "x".repeat(1024 * 1024);
    let refused = call(&channel, "ValidateJWTSVID", long, Some("true")).await;
    let code = refused.unwrap_err().code();
    assert!(
        matches!(code, Code::OutOfRange | Code::ResourceExhausted),
        "{code}"
    );
    call(&channel, "FetchX509SVID", (), Some("true"))
        .await
        .unwrap();
}
