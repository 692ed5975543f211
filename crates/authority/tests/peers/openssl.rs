//! `openssl` on either end, with SVIDs written to files.

use std::process::Stdio;

use hostler_identity::{Authorizer, Client, ClientError};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::house::{Files, House, Serving, id, soon};
use crate::programs::{program, run, said};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";

fn openssl(verb: &str) -> Command {
    let mut openssl = Command::new(program("openssl", "openssl"));
    openssl.arg(verb).kill_on_drop(true);
    openssl
}

/// `s_client`, trusting the authority of `trusted`, presenting nothing yet.
fn s_client(serving: &Serving, trusted: &Files) -> Command {
    let mut client = openssl("s_client");
    client
        .args(["-quiet", "-verify_return_error", "-connect"])
        .arg(serving.address.to_string())
        .arg("-CAfile")
        .arg(&trusted.bundle);
    client
}

fn presenting<'a>(command: &'a mut Command, files: &Files) -> &'a mut Command {
    command
        .arg("-cert")
        .arg(&files.chain)
        .arg("-key")
        .arg(&files.key)
}

#[tokio::test]
async fn a_chain_passes_openssls_strict_verification() {
    let house = House::new();
    let web = house.files("/web");
    for (bundle, verdict) in [
        (&web.bundle, true),
        (&House::new().files("/web").bundle, false),
    ] {
        for purpose in ["sslserver", "sslclient"] {
            let mut verify = openssl("verify");
            verify
                .args(["-x509_strict", "-purpose", purpose, "-CAfile"])
                .arg(bundle);
            let answer = run(verify.arg(&web.chain), "").await;
            assert_eq!(answer.status.success(), verdict, "{}", said(&answer));
        }
    }
}

#[tokio::test]
async fn s_client_and_our_server_recognise_each_other() {
    let house = House::new();
    let serving = house.server("/api", Authorizer::id(id("/web"))).await;
    let web = house.files("/web");
    let answer = run(presenting(&mut s_client(&serving, &web), &web), REQUEST).await;
    assert!(
        said(&answer).contains("hello, spiffe://a.example/web"),
        "{}",
        said(&answer)
    );
}

#[tokio::test]
async fn s_client_refuses_an_impostor_of_our_server() {
    let (house, impostor) = (House::new(), House::new());
    let serving = impostor.server("/api", Authorizer::any()).await;
    let web = house.files("/web");
    let answer = run(presenting(&mut s_client(&serving, &web), &web), REQUEST).await;
    assert!(!answer.status.success());
    assert!(said(&answer).contains("verify failed"), "{}", said(&answer));
}

#[tokio::test]
async fn our_server_refuses_s_client_without_an_svid_that_it_expects() {
    let house = House::new();
    let serving = house.server("/api", Authorizer::id(id("/web"))).await;
    let web = house.files("/web");
    let nobody = run(&mut s_client(&serving, &web), REQUEST).await;
    let other = house.files("/other");
    let other = run(presenting(&mut s_client(&serving, &web), &other), REQUEST).await;
    let impostor = House::new().files("/web");
    let impostor = run(
        presenting(&mut s_client(&serving, &web), &impostor),
        REQUEST,
    )
    .await;
    let mut old = s_client(&serving, &web);
    let old = run(presenting(old.arg("-tls1_2"), &web), REQUEST).await;
    for (answer, alert) in [
        (nobody, "alert certificate required"),
        (other, "alert certificate unknown"),
        (impostor, "alert certificate unknown"),
        (old, "alert protocol version"),
    ] {
        assert!(said(&answer).contains(alert), "{}", said(&answer));
        assert!(!said(&answer).contains("hello"), "{}", said(&answer));
    }
}

/// `s_server` with these files, demanding a certificate of the same authority; and its URL.
async fn s_server(files: &Files) -> (Child, String) {
    let mut server = openssl("s_server");
    server
        .args(["-accept", "127.0.0.1:0", "-tls1_3", "-www"])
        .args(["-Verify", "1", "-verify_return_error", "-CAfile"])
        .arg(&files.bundle);
    let mut server = presenting(&mut server, files)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    loop {
        let line = soon(lines.next_line()).await.unwrap();
        let line = line.expect("s_server listens");
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            let url = format!("https://{address}/");
            // Its output is read to the end, or it would block on a full pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (server, url);
        }
    }
}

#[tokio::test]
async fn our_client_and_s_server_recognise_each_other() {
    let house = House::new();
    let (_server, url) = s_server(&house.files("/api")).await;
    let client = Client::new(&house.source("/web"), Authorizer::id(id("/api")));
    let answer = soon(client.get(&url)).await.unwrap();
    // It shows the certificate that it was shown.
    let text = String::from_utf8_lossy(answer.body());
    assert!(text.contains("URI:spiffe://a.example/web"), "{text}");
}

#[tokio::test]
async fn our_client_tells_s_server_nothing_when_it_is_somebody_else() {
    let house = House::new();
    let (_server, url) = s_server(&house.files("/other")).await;
    let client = Client::new(&house.source("/web"), Authorizer::id(id("/api")));
    let refused = soon(client.get(&url)).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::WrongServer { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn s_server_refuses_a_client_of_an_impostors_authority() {
    let house = House::new();
    let (_server, url) = s_server(&house.files("/api")).await;
    // It knows our roots, so that it gets as far as being refused, and has not been signed by them.
    let impostor = House::new().files("/web").svid;
    let (impostor, _writer) = hostler_identity::Source::memory(impostor, house.authority.bundles());
    let client = Client::new(&impostor, Authorizer::id(id("/api")));
    let refused = soon(client.get(&url)).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::RefusedByServer { .. }),
        "{refused:?}"
    );
}
