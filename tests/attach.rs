//! An API of somebody else's, attached to a control plane.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::support::{Plane, hostler};

const TOKEN: &str = "planted-weather-token-0815";

/// The API: it wants its token, and tells the weather.
fn weather(runtime: &Runtime) -> String {
    let forecast = async |headers: HeaderMap, asked: Uri| {
        let city = asked.query().and_then(|query| query.strip_prefix("city="));
        let shown = headers.get("authorization").and_then(|v| v.to_str().ok());
        match shown == Some(&format!("Bearer {TOKEN}")) {
            true => (StatusCode::OK, Json(json!({"city": city, "sun": true}))),
            false => (
                StatusCode::FORBIDDEN,
                Json(json!({"message": "who are you?"})),
            ),
        }
    };
    let app = Router::new().route("/v2/forecast", get(forecast));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("its address");
    runtime.spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/v2")
}

const DOCUMENT: &str = r#"
openapi: 3.1.0
info: { title: Weather, version: "1" }
paths:
  /forecast:
    get:
      operationId: getForecast
      summary: The weather of a city.
      parameters:
        - { name: city, in: query, required: true, schema: { type: string } }
      responses:
        "200":
          description: It.
          content: { application/json: { schema: { type: object } } }
  /stations:
    get:
      operationId: listStations
      responses: { "200": { description: All. } }
"#;

fn attach(directory: &Path, base_url: &str, token_mode: u32) -> String {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    write("weather.yaml", DOCUMENT);
    let token = write("weather.token", &format!("{TOKEN}\n"));
    std::fs::set_permissions(token, Permissions::from_mode(token_mode)).expect("its mode");
    let file = format!(
        "apis:\n  - name: weather\n    document: weather.yaml\n    base_url: {base_url}\n    \
         bearer_file: weather.token\n    external: [get-forecast]\n"
    );
    write("attach.yaml", &file).display().to_string()
}

#[test]
fn an_attached_api_is_called_with_a_key_of_ours_and_a_credential_of_its_own() {
    let runtime = Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let base_url = weather(&runtime);
    let file = attach(directory.path(), &base_url, 0o600);
    let plane = Plane::start_with(&[("HOSTLER_ATTACH", &file)]);
    let key = |scope: &str| {
        let made = plane.ask(&["api-key", "create", "k", "--scope", scope]);
        made["secret"].as_str().expect("a key").to_owned()
    };
    let (caller, other) = (key("attached:call"), key("hosts:read"));
    let path = "/weather/get-forecast?city=Bern";
    let sunny = plane.curl(Some(&caller), &[], path);
    assert_eq!(sunny.status, 200, "{}", sunny.body);
    assert_eq!(sunny.json(), json!({"city": "Bern", "sun": true}));
    assert_eq!(plane.curl(Some(&other), &[], path).status, 403);
    assert_eq!(plane.curl(None, &[], path).status, 401);
    let wrong = plane.curl(Some(&caller), &[], "/weather/get-forecast");
    assert_eq!((wrong.status, &*wrong.code()), (422, "INVALID_INPUT"));
    let internal = plane.curl(Some(plane.key()), &[], "/weather/list-stations");
    assert_eq!(internal.status, 404);
    let document = plane.curl(Some(&caller), &[], "/openapi.json").body;
    assert!(document.contains("/weather/get-forecast"));
    assert!(!document.contains("list-stations") && !document.contains(TOKEN));
    let log = plane.log();
    let attached = log.lines().find(|line| line.contains("attached"));
    let attached = attached.expect("it is said what is attached");
    assert!(attached.contains(&base_url), "and where: {attached}");
    assert!(!log.contains(TOKEN), "the credential is in the log");
}

#[test]
fn what_cannot_be_attached_is_said_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = "http://127.0.0.1:9/v2";
    let refused = |file: &str| {
        let started = hostler()
            .args([
                "server",
                "--listen",
                "127.0.0.1:0",
                "--fleet-listen",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--attach", file])
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        assert!(!started.status.success());
        String::from_utf8_lossy(&started.stderr).into_owned()
    };
    let open = attach(directory.path(), here, 0o644);
    let said = refused(&open);
    assert!(
        said.contains("weather") && said.contains("chmod 600"),
        "{said}"
    );
    let plain = attach(directory.path(), "http://weather.example/v2", 0o600);
    let said = refused(&plain);
    assert!(said.contains("not HTTPS"), "{said}");
    let misspelt = attach(directory.path(), here, 0o600);
    let text = std::fs::read_to_string(&misspelt).expect("it is there");
    std::fs::write(&misspelt, text.replace("bearer_file", "bearer_fyle")).expect("written");
    let said = refused(&misspelt);
    assert!(
        said.contains("bearer_fyle") && said.contains("line 5"),
        "{said}"
    );
}
