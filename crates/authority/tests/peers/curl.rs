//! curl at our server. It has no notion of SPIFFE IDs and cannot be told to check a chain without
//! a host name, so it recognises us by the key in our certificate.

use std::process::Output;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hostler_identity::{Authorizer, Svid};
use tokio::process::Command;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::house::{Files, House, Serving, id};
use crate::programs::{program, run, said};

/// What curl calls a public key's pin.
fn pin(svid: &Svid) -> String {
    let (_, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    let key = digest(&SHA256, leaf.public_key().raw);
    format!("sha256//{}", STANDARD.encode(key))
}

fn curl(serving: &Serving, pin: &str) -> Command {
    let mut curl = Command::new(program("curl", "curl"));
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--pinnedpubkey",
        pin,
    ])
    .args(["--write-out", " over HTTP/%{http_version}"])
    .arg(serving.url());
    curl
}

async fn ask(serving: &Serving, pin: &str, files: &Files, more: &[&str]) -> Output {
    let mut curl = curl(serving, pin);
    curl.arg("--cert").arg(&files.chain);
    curl.arg("--key").arg(&files.key).args(more);
    run(&mut curl, "").await
}

/// A server for `/web`, known by its key.
async fn server(house: &House) -> (Serving, String) {
    let api = house.source("/api");
    let serving = Serving::new(&api, Authorizer::id(id("/web"))).await;
    (serving, pin(&api.svid().unwrap()))
}

#[tokio::test]
async fn curl_is_recognised_over_both_versions_of_http() {
    let house = House::new();
    let (serving, pin) = server(&house).await;
    let web = house.files("/web");
    for (version, spoken) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
        let answer = ask(&serving, &pin, &web, &[version]).await;
        let expected = format!("hello, spiffe://a.example/web over {spoken}");
        assert_eq!(
            String::from_utf8_lossy(&answer.stdout),
            expected,
            "{}",
            said(&answer)
        );
    }
}

#[tokio::test]
async fn curl_refuses_a_server_with_another_key() {
    let house = House::new();
    let (serving, _) = server(&house).await;
    let web = house.files("/web");
    let answer = ask(&serving, &pin(&web.svid), &web, &[]).await;
    // CURLE_SSL_PINNEDPUBKEYNOTMATCH
    assert_eq!(answer.status.code(), Some(90), "{}", said(&answer));
    assert!(!said(&answer).contains("hello"));
}

#[tokio::test]
async fn curl_is_refused_without_a_certificate_with_an_impostors_and_as_somebody_else() {
    let house = House::new();
    let (serving, pin) = server(&house).await;
    let nobody = run(&mut curl(&serving, &pin), "").await;
    let impostor = ask(&serving, &pin, &House::new().files("/web"), &[]).await;
    let other = ask(&serving, &pin, &house.files("/other"), &[]).await;
    for (answer, alert) in [
        (nobody, "certificate required"),
        (impostor, "certificate unknown"),
        (other, "certificate unknown"),
    ] {
        assert!(!answer.status.success());
        assert!(said(&answer).contains(alert), "{}", said(&answer));
        assert!(!said(&answer).contains("hello"), "{}", said(&answer));
    }
}

#[tokio::test]
async fn curl_is_refused_when_it_speaks_no_more_than_tls_1_2() {
    let house = House::new();
    let (serving, pin) = server(&house).await;
    let answer = ask(&serving, &pin, &house.files("/web"), &["--tls-max", "1.2"]).await;
    // CURLE_SSL_CONNECT_ERROR
    assert_eq!(answer.status.code(), Some(35), "{}", said(&answer));
}
