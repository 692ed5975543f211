//! A stand-in for a host: a real server behind mutual TLS with a real identity, which registers as
//! a machine does and keeps its VMs in memory. It is as strict as a host: it lets in only the
//! control plane.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use hostler_identity::{Authorizer, KeyAndCsr, Server, Source, SourceWriter, Svid, TrustBundles};
use hostler_operations::Identity;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::desk::{Desk, TRUST_DOMAIN, text};

/// How the host behaves.
#[derive(Debug, Clone, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Refuses everything with this error object and status.
    Refuses(u16, Value),
    /// Does what it is asked and then says something that is no answer.
    Mumbles,
    /// Says only things that are no answers, and does nothing.
    Raves,
    /// Does what would start a VM only once it is told to.
    Hesitates(Arc<Notify>),
    /// The same, and what it says then is no answer.
    HesitatesAndMumbles(Arc<Notify>),
    /// Answers with a stream: these bytes, and then an end, or none for as long as the caller
    /// listens.
    Streams(Vec<String>, bool),
}

#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) vms: BTreeMap<String, Value>,
    pub(crate) snapshots: Vec<Value>,
    pub(crate) mood: Mood,
    /// Operation, input and request id of every call.
    pub(crate) calls: Vec<(String, Value, String)>,
    /// How many streams there were, and how many of them the callers left.
    pub(crate) streams: (usize, usize),
}

pub(crate) struct StandIn {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) host_token: String,
    inside: Arc<Mutex<Inside>>,
    identity: SourceWriter,
    _serving: DropGuard,
}

impl StandIn {
    /// A new host that has 4 cores, 4 GiB of memory and 100 GiB of disk.
    pub(crate) async fn enrol(desk: &Desk) -> Self {
        Self::enrol_with(desk, 4, 4096).await
    }

    pub(crate) async fn enrol_with(desk: &Desk, cpu_cores: u32, memory_mb: u64) -> Self {
        let (_, token) = desk.pending().await;
        Self::enrol_by(desk, &token, cpu_cores, memory_mb).await
    }

    /// Becomes the host whose token this is.
    pub(crate) async fn enrol_by(desk: &Desk, token: &str, cpu_cores: u32, memory_mb: u64) -> Self {
        // It listens before it registers, so that the address is certain; until it has registered
        // it is a nobody.
        let nobody = svid_of(desk, "nobody");
        let (source, identity) = Source::memory(nobody, desk.authority.bundles());
        let control_plane = Authorizer::matcher(|id| id.path().starts_with("/control-plane/"));
        let server = Server::bind("127.0.0.1:0", &source, control_plane)
            .await
            .expect("a port");
        let address = server.local_addr().expect("an address").to_string();
        let (inside, stop) = (
            Arc::new(Mutex::new(Inside::default())),
            CancellationToken::new(),
        );
        let app = Router::new()
            .route("/{service}/{operation}", post(answer))
            .with_state(Arc::clone(&inside));
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(server.serve(app, stopped));

        let own = KeyAndCsr::generate(None).expect("a key");
        let registration = json!({
            "token": token, "address": address, "arch": "x86_64", "cpu_cores": cpu_cores,
            "memory_mb": memory_mb, "disk_gb": 100, "csr": own.csr_pem,
        });
        let registered = desk.try_call("hosts/register", None, registration).await;
        let registered = registered.expect("registered");
        let svid = Svid::from_pem(&text(&registered["svid"]), &own.key_pem).expect("an SVID");
        let id = text(&registered["host"]["id"]);
        assert_eq!(
            svid.id().to_string(),
            format!("spiffe://{TRUST_DOMAIN}/host/{id}")
        );
        let domain = svid.id().trust_domain().clone();
        let bundle = TrustBundles::from_pem(domain, &text(&registered["bundle"])).expect("roots");
        identity.replace(svid, bundle);
        Self {
            id,
            address,
            host_token: text(&registered["token"]),
            inside,
            identity,
            _serving: stop.drop_guard(),
        }
    }

    pub(crate) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.inside().mood = mood;
    }

    /// From now on another machine answers at this host's address, with an identity of its own.
    pub(crate) fn be_replaced_by(&self, desk: &Desk, other: &str) {
        self.identity
            .replace(svid_of(desk, other), desk.authority.bundles());
    }

    /// The identity that the host token gives.
    pub(crate) async fn identity(&self, desk: &Desk) -> Identity {
        let token = self.host_token.as_str().into();
        let found = desk.fleet.identify(None, Some(&token), None).await;
        found.expect("a good token").expect("an identity")
    }

    pub(crate) async fn heartbeat(&self, desk: &Desk, vms: Value) {
        let me = self.identity(desk).await;
        let beat = json!({"id": self.id, "vms": vms});
        desk.call_as(&me, "hosts/heartbeat", beat).await;
    }
}

fn svid_of(desk: &Desk, path: &str) -> Svid {
    let own = KeyAndCsr::generate(None).expect("a key");
    let id = format!("spiffe://{TRUST_DOMAIN}/{path}")
        .parse()
        .expect("an id");
    let signed = desk
        .authority
        .sign_csr(&own.csr_pem, &id, Timestamp::now())
        .expect("signed");
    Svid::from_pem(&signed.chain_pem, &own.key_pem).expect("an SVID")
}

fn refusal(status: StatusCode, code: &str, message: String) -> (StatusCode, Value) {
    let error = json!({"code": code, "message": message, "retryable": false, "request_id": "x"});
    (status, json!({ "error": error }))
}

async fn answer(
    State(shared): State<Arc<Mutex<Inside>>>,
    Path((service, operation)): Path<(String, String)>,
    headers: HeaderMap,
    Json(input): Json<Value>,
) -> Response {
    let operation = format!("{service}/{operation}");
    let request_id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let request_id = request_id.unwrap_or_default().to_owned();
    let mood = {
        let mut inside = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let called = (operation.clone(), input.clone(), request_id);
        inside.calls.push(called);
        inside.mood.clone()
    };
    let starts = matches!(&*operation, "vms/start" | "vms/restore");
    if let Mood::Hesitates(go) | Mood::HesitatesAndMumbles(go) = &mood
        && starts
    {
        go.notified().await;
    }
    let mut inside = shared.lock().unwrap_or_else(PoisonError::into_inner);
    match mood {
        Mood::HesitatesAndMumbles(_) if starts => {
            act(&mut inside, &operation, &input);
            "mumble".into_response()
        }
        Mood::Well | Mood::Hesitates(_) | Mood::HesitatesAndMumbles(_) => {
            let (status, body) = act(&mut inside, &operation, &input);
            (status, Json(body)).into_response()
        }
        Mood::Refuses(status, error) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, Json(json!({ "error": error }))).into_response()
        }
        Mood::Mumbles => {
            let (_, body) = act(&mut inside, &operation, &input);
            if operation == "vms/get" {
                return Json(body).into_response();
            }
            "mumble".into_response()
        }
        Mood::Raves => "raving".into_response(),
        Mood::Streams(pieces, ends) => {
            let accept = headers.get("accept").and_then(|kind| kind.to_str().ok());
            assert_eq!(accept, Some("text/event-stream"));
            inside.streams.0 += 1;
            drop(inside);
            stream(shared, pieces, ends)
        }
    }
}

/// Counts the streams that were left before their end.
struct Leaving(Arc<Mutex<Inside>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.streams.1 += 1;
    }
}

fn stream(inside: Arc<Mutex<Inside>>, pieces: Vec<String>, ends: bool) -> Response {
    use futures::StreamExt;
    let leaving = Leaving(inside);
    let pieces = futures::stream::iter(pieces).map(Ok::<_, std::convert::Infallible>);
    let rest = match ends {
        true => futures::stream::empty().boxed(),
        false => futures::stream::pending().boxed(),
    };
    let body = pieces.chain(rest).inspect(move |_| {
        let _until_the_end = &leaving;
    });
    let mut answer = Response::new(axum::body::Body::from_stream(body));
    let kind = "text/event-stream".parse().expect("a value");
    answer.headers_mut().insert("content-type", kind);
    answer
}

fn act(inside: &mut Inside, operation: &str, input: &Value) -> (StatusCode, Value) {
    let name = input["name"].as_str().unwrap_or_default().to_owned();
    if operation == "vms/create" {
        let mut vm = input.clone();
        vm["id"] = json!("0198c0de-0000-7000-8000-000000000000");
        vm["state"] = json!("created");
        vm["driver"] = json!("qemu");
        vm["image"] = json!("debian-minimal");
        vm["kernel"] = json!("debian-cloud");
        vm["created_at"] = json!("2026-01-01T00:00:00Z");
        inside.vms.insert(name, vm.clone());
        return (StatusCode::OK, vm);
    }
    if operation == "snapshots/list" {
        let mut of_vm = inside.snapshots.clone();
        of_vm.retain(|snapshot| snapshot["vm"] == json!(name));
        return (StatusCode::OK, json!(of_vm));
    }
    if operation == "snapshots/delete" {
        inside
            .snapshots
            .retain(|one| one["name"] != input["snapshot"]);
        return (StatusCode::OK, input.clone());
    }
    if operation.ends_with("/list") {
        let named = |name: &str| json!({"name": name, "of": operation});
        return (StatusCode::OK, json!([named("a"), named("b"), named("c")]));
    }
    if !operation.starts_with("vms/") {
        return (StatusCode::OK, json!({"did": operation, "with": input}));
    }
    let Some(vm) = inside.vms.get_mut(&name) else {
        return refusal(
            StatusCode::NOT_FOUND,
            "NOT_FOUND",
            format!("there is no VM {name:?}"),
        );
    };
    match operation {
        "vms/run" => {
            let ran = json!({
                "exit_code": 0, "timed_out": false, "stdout": "", "stderr": "", "truncated": false,
            });
            return (StatusCode::OK, ran);
        }
        "vms/write-file" => return (StatusCode::OK, json!({})),
        "vms/start" => vm["state"] = json!("running"),
        "vms/stop" => {
            vm.as_object_mut().map(|vm| vm.remove("next_restart_at"));
            if vm["state"] != "created" {
                vm["state"] = json!("stopped");
            }
        }
        "vms/pause" => vm["state"] = json!("paused"),
        "vms/resume" => vm["state"] = json!("running"),
        "vms/snapshot" => {
            let snapshot = json!({
                "name": input["snapshot"].as_str().unwrap_or("s-1"), "vm": name,
                "created_at": "2026-01-01T00:00:00Z", "memory": vm["state"] == "running",
                "driver": "qemu", "cpus": 1, "memory_mb": 512, "disk_size_mb": 1024,
                "kernel": "debian-cloud", "size_mb": 70,
            });
            inside.snapshots.push(snapshot.clone());
            return (StatusCode::OK, snapshot);
        }
        "vms/restore" if vm["state"] == "running" && input["force"] != true => {
            let message = format!("VM {name} is running; stop it first, or restore it with force");
            return refusal(StatusCode::CONFLICT, "CONFLICT", message);
        }
        "vms/restore" => vm["state"] = json!("running"),
        "vms/delete" if vm["state"] == "running" && input["force"] != true => {
            let message = format!("{name} is running; stop it first, or use force");
            return refusal(StatusCode::CONFLICT, "INVALID_STATE", message);
        }
        "vms/delete" => {
            let vm = vm.clone();
            inside.vms.remove(&name);
            return (StatusCode::OK, vm);
        }
        "vms/port-forward" => {
            let mut forward = input.clone();
            forward.as_object_mut().map(|fields| fields.remove("name"));
            vm["port_forwards"] = json!([forward]);
        }
        _ => {}
    }
    (StatusCode::OK, vm.clone())
}
