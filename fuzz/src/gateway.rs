//! What others write that hostler-gateway reads: documents of APIs.

use std::sync::LazyLock;

use hostler_gateway::{ForeignApi, ImportError};
use hostler_operations::Registry;
use rustls::{ClientConfig, RootCertStore};

static TLS: LazyLock<ClientConfig> = LazyLock::new(|| {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
});

/// Whatever is taken from a document, a registry takes; and what is not has a reason.
pub fn openapi(data: &[u8]) {
    let base = "https://api.example/v1".parse().expect("a URL");
    let imported = ForeignApi::new("api", TLS.clone())
        .base_url(base)
        .import(data);
    let imported = match imported {
        Ok(imported) => imported,
        Err(ImportError::Document(reason)) => return assert!(!reason.is_empty()),
        Err(ImportError::Twice { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    for left_out in &imported.left_out {
        assert!(!left_out.reason.is_empty(), "{left_out:?}");
    }
    let registry = Registry::builder().service(imported.service, &imported.upstream);
    if let Err(error) = registry.build() {
        panic!("{error}");
    }
}
