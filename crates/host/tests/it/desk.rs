//! The operations of a host, called the way that a door calls them: through the registry.

use std::net::TcpListener;
use std::sync::Arc;

use hostler_host::{Host, mount};
use hostler_operations::{CallError, Grants, Identity, Registry, Request};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::host;

/// A host and the way into it.
pub(crate) struct Desk {
    pub(crate) registry: Arc<Registry>,
    pub(crate) host: Arc<Host>,
    _data: TempDir,
}

impl Desk {
    pub(crate) async fn open() -> Self {
        let data = tempdir().unwrap();
        let host = host(data.path()).await;
        let registry = mount(Registry::builder(), &host).build().unwrap();
        Self {
            registry,
            host,
            _data: data,
        }
    }

    /// With the default image and kernel.
    pub(crate) async fn with_images() -> Self {
        let desk = Self::open().await;
        desk.call("images/pull", json!({})).await.unwrap();
        desk
    }

    pub(crate) async fn call(&self, operation: &str, input: Value) -> Result<Value, CallError> {
        let identity = Some(Identity::new("the control plane", Grants::All));
        let request = Request {
            input,
            identity,
            ..Request::default()
        };
        Ok(self.registry.invoke(operation, request).await?.output)
    }

    /// The code of a call that fails.
    pub(crate) async fn code(&self, operation: &str, input: Value) -> String {
        let error = self.call(operation, input).await.unwrap_err();
        assert!(!error.message().is_empty());
        error.code().as_str().to_owned()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let vms = self.call("vms/list", json!({})).await.unwrap();
        let names = vms.as_array().unwrap().iter();
        names
            .map(|vm| vm["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
