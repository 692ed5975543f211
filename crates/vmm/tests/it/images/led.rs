//! Registries that lead elsewhere: as far as they may, and with nothing that was meant for them.

use std::net::{Ipv4Addr, TcpListener};

use hostler_vmm::{Credentials, ImportImageError};

use super::makers::{assert_nothing_left, import, request};
use super::stub::{Stub, Trouble};
use super::tarball::Tarball;
use super::tls::own_address;
use crate::support::Host;

fn layer() -> Vec<u8> {
    Tarball::bootable().bytes()
}

/// Somebody whom a registry has no business to have asked.
struct Bystander(TcpListener);

impl Bystander {
    fn at(ip: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.0.local_addr().unwrap())
    }

    fn was_asked(&self) -> bool {
        self.0.accept().is_ok()
    }
}

#[tokio::test]
async fn a_layer_that_is_elsewhere_is_fetched_there_without_what_the_registry_was_shown() {
    let host = Host::bare().await;
    let stub = Stub::serve(layer(), Trouble::TokenAndRedirects);
    // The layer is at 127.0.0.1: the same address and port, by a name that no secret is for.
    let name = stub.name().replace("127.0.0.1", "localhost");
    import(&host.machines, name, "a").await.unwrap();
    assert_eq!(stub.transfers(), 1);
    let stub = Stub::serve(layer(), Trouble::Redirects("gopher://127.0.0.1".to_owned()));
    host.machines.images().delete("a").await.unwrap();
    let error = import(&host.machines, stub.name(), "a").await.unwrap_err();
    assert!(
        error.to_string().contains("does not speak as a registry"),
        "{error}"
    );
}

/// A VM whose port is forwarded is at 127.0.0.1, and may be called a registry.
#[tokio::test]
async fn a_registry_in_this_hosts_network_leads_to_nobody_else_there() {
    let host = Host::bare().await;
    let mut bystanders = vec![(Bystander::at(Ipv4Addr::LOCALHOST), "http")];
    bystanders.push((Bystander::at(Ipv4Addr::LOCALHOST), "https"));
    bystanders.push((Bystander::at(Ipv4Addr::new(127, 0, 0, 2)), "http"));
    if let Some(ip) = own_address() {
        bystanders.push((Bystander::at(ip), "http"));
        bystanders.push((Bystander::at(ip), "https"));
    }
    for (bystander, scheme) in bystanders {
        let url = bystander.url(scheme);
        for trouble in [
            Trouble::Redirects(url.clone()),
            Trouble::TokenOf(format!("{url}/token")),
        ] {
            let stub = Stub::serve(layer(), trouble);
            let error = import(&host.machines, stub.name(), "a").await.unwrap_err();
            assert!(
                error.to_string().contains("no image is fetched from"),
                "{error}"
            );
            assert!(!bystander.was_asked(), "{url} was asked");
        }
    }
    assert_nothing_left(&host).await;
}

async fn import_with_password(host: &Host, stub: &Stub) -> ImportImageError {
    let mut request = request(stub.name(), "a");
    request.credentials = Some(Credentials {
        username: "ali".to_owned(),
        password: "open sesame".to_owned(),
    });
    let imported = host.machines.images().import(request, &|_| {}).await;
    imported.unwrap_err()
}

#[tokio::test]
async fn a_password_goes_to_nobody_in_the_clear_but_the_registry() {
    let host = Host::bare().await;
    // Nobody is there (RFC 6761), and nobody is looked for.
    let realm = "http://tokens.invalid/token".to_owned();
    let stub = Stub::serve(layer(), Trouble::TokenOf(realm));
    let error = import_with_password(&host, &stub).await.to_string();
    assert!(error.contains("tokens.invalid over plain http"), "{error}");
    assert!(!error.contains("sesame"), "{error}");
    assert_nothing_left(&host).await;
}
