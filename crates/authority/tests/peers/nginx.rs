//! nginx as a server to our client, and as a client of our server: it passes requests on.
//!
//! It cannot tell one SPIFFE ID of an authority from another, in either direction; we can.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use hostler_identity::{Authorizer, Client, ClientError, Source};
use http::StatusCode;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};

use crate::house::{Files, House, Serving, id, soon};
use crate::programs::program;

/// nginx with these files, demanding a certificate of the same authority.
struct Nginx {
    url: String,
    _process: Child,
}

impl Nginx {
    /// `/` says what it made of the client's certificate, `/on` asks our server, if there is one.
    async fn new(files: &Files, ours: Option<&Serving>) -> Self {
        loop {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let at = files.dir.path();
            fs::write(at.join("nginx.conf"), configuration(files, address, ours)).unwrap();
            let mut process = Command::new(program("nginx", "nginx"))
                .arg("-p")
                .arg(at)
                .args(["-e", "stderr", "-c"])
                .arg(at.join("nginx.conf"))
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let complaints = process.stderr.take().unwrap();
            if soon(listens(&mut process, address)).await {
                tokio::spawn(complaints_of(complaints));
                let url = format!("https://{address}");
                return Self {
                    url,
                    _process: process,
                };
            }
            let why = complaints_of(complaints).await;
            assert!(
                why.contains("Address already in use"),
                "nginx does not start: {why}"
            );
        }
    }
}

/// Whether it listens; if not, it has ended.
async fn listens(process: &mut Child, address: SocketAddr) -> bool {
    loop {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(address).await.is_ok() {
            return true;
        }
        tokio::task::yield_now().await;
    }
}

async fn complaints_of(stderr: ChildStderr) -> String {
    let (mut lines, mut all) = (BufReader::new(stderr).lines(), String::new());
    while let Ok(Some(line)) = lines.next_line().await {
        all += &line;
    }
    all
}

fn configuration(files: &Files, address: SocketAddr, ours: Option<&Serving>) -> String {
    let path = |path: &Path| path.display().to_string();
    let (chain, key, bundle) = (path(&files.chain), path(&files.key), path(&files.bundle));
    let at = path(files.dir.path());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .concat();
    let on = ours.map_or(String::new(), |ours| {
        format!(
            "location /on {{
                proxy_pass {};
                proxy_ssl_protocols TLSv1.3;
                proxy_ssl_certificate {chain};
                proxy_ssl_certificate_key {key};
            }}",
            ours.url()
        )
    });
    format!(
        "daemon off; master_process off; pid {at}/nginx.pid;
        events {{}}
        http {{
            access_log off;
            {temporary}
            server {{
                listen {address} ssl http2;
                ssl_protocols TLSv1.3;
                ssl_certificate {chain};
                ssl_certificate_key {key};
                ssl_client_certificate {bundle};
                ssl_verify_client on;
                location / {{ return 200 '$ssl_client_verify $ssl_client_serial'; }}
                {on}
            }}
        }}"
    )
}

fn client(source: &Source) -> Client {
    Client::new(source, Authorizer::id(id("/nginx")))
}

#[tokio::test]
async fn our_client_and_nginx_recognise_each_other() {
    let house = House::new();
    let nginx = Nginx::new(&house.files("/nginx"), None).await;
    let web = house.files("/web");
    let serial = serial(&web);
    let (web, _writer) = Source::memory(web.svid, house.authority.bundles());
    let answer = soon(client(&web).get(&nginx.url)).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(*answer.body(), format!("SUCCESS {serial}"));
}

#[tokio::test]
async fn our_client_tells_nginx_nothing_when_it_is_somebody_else() {
    let house = House::new();
    let nginx = Nginx::new(&house.files("/other"), None).await;
    let refused = soon(client(&house.source("/web")).get(&nginx.url))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ClientError::WrongServer { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn nginx_refuses_a_client_of_an_impostors_authority() {
    let house = House::new();
    let nginx = Nginx::new(&house.files("/nginx"), None).await;
    let impostor = House::new().files("/web").svid;
    let (impostor, _writer) = Source::memory(impostor, house.authority.bundles());
    // Its way is to shake hands and answer 400.
    let answer = soon(client(&impostor).get(&nginx.url)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(
        !answer.body().starts_with(b"SUCCESS"),
        "{:?}",
        answer.body()
    );
}

#[tokio::test]
async fn our_server_knows_nginx_as_a_client_and_refuses_it_as_somebody_else() {
    let house = House::new();
    let ours = house.server("/api", Authorizer::id(id("/nginx"))).await;
    let nginx = Nginx::new(&house.files("/nginx"), Some(&ours)).await;
    let web = client(&house.source("/web"));
    let answer = soon(web.get(&format!("{}/on", nginx.url))).await.unwrap();
    assert_eq!(answer.body(), "hello, spiffe://a.example/nginx");

    let ours = house.server("/api", Authorizer::id(id("/other"))).await;
    let nginx = Nginx::new(&house.files("/nginx"), Some(&ours)).await;
    let answer = soon(web.get(&format!("{}/on", nginx.url))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
}

/// A certificate's serial number in nginx's form.
fn serial(files: &Files) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(&files.svid.chain()[0]).unwrap();
    hex::encode_upper(leaf.raw_serial())
}
