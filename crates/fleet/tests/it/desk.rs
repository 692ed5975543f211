//! A fleet of its own for each test, and a caller at its desk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use hostler_authority::{Authority, FileError, OpenError};
use hostler_fleet::{ApiKey, Config, Database, Fleet, mount};
use hostler_identity::TrustDomain;
use hostler_operations::{CallError, Identity, Kind, Registry, Reply, Request};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tempfile::TempDir;

pub(crate) const TRUST_DOMAIN: &str = "fleet.test";

pub(crate) struct Desk {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) authority: Authority,
    pub(crate) first_key: Option<ApiKey>,
    pub(crate) admin: Identity,
    pub(crate) books: Database,
    dir: Option<TempDir>,
}

/// The books that belong to this directory: in it, or on the server of this test program.
pub(crate) async fn database(dir: &Path) -> Database {
    if !crate::ON_POSTGRES {
        return Database::Sqlite(file(dir));
    }
    let noted = dir.join("database-url");
    if !noted.exists() {
        let url = crate::cluster::cluster().database().await;
        std::fs::write(&noted, url).expect("noted");
    }
    let url = std::fs::read_to_string(&noted).expect("readable");
    url.parse().expect("a database")
}

/// Where the books of this directory are when they are a file.
pub(crate) fn file(dir: &Path) -> PathBuf {
    dir.join("books/fleet.db")
}

/// A fleet on the books in this directory. The key of a first start is not good yet.
pub(crate) async fn begin(dir: &Path) -> (Authority, Arc<Fleet>, Option<ApiKey>) {
    let domain = TrustDomain::new(TRUST_DOMAIN).expect("a trust domain");
    let authority = authority(dir, domain).await;
    let own_id = format!("spiffe://{TRUST_DOMAIN}/control-plane/1")
        .parse()
        .expect("an id");
    let source = authority.source(&own_id).expect("an identity");
    let config = Config {
        database: database(dir).await,
        machines_url: "https://127.0.0.1:8444".into(),
        replica_url: "https://127.0.0.1:8444".into(),
        redis: None,
        federation: Vec::new(),
    };
    let opened = Fleet::open(config, authority.clone(), source).await;
    let (fleet, first_key) = opened.expect("a fleet");
    (authority, fleet, first_key)
}

impl Desk {
    pub(crate) async fn open() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut desk = Self::open_existing(dir.path()).await;
        desk.dir = Some(dir);
        desk
    }

    /// A fleet on the books in this directory, which somebody else removes.
    pub(crate) async fn open_existing(dir: &Path) -> Self {
        let (authority, fleet, first_key) = begin(dir).await;
        if let Some(key) = &first_key {
            fleet.admit_first_key(key).await.expect("it is admitted");
        }
        let registry = mount(Registry::builder(), &fleet)
            .build()
            .expect("the definitions agree");
        let admin = match &first_key {
            Some(key) => identify(&fleet, key.reveal()).await,
            None => Identity::new("nobody", std::iter::empty().collect()),
        };
        Self {
            fleet,
            registry,
            authority,
            first_key,
            admin,
            books: database(dir).await,
            dir: None,
        }
    }

    /// Stops the fleet and opens it again on the same books.
    pub(crate) async fn reopen(self) -> Self {
        let dir = self.shut().await;
        let mut desk = Self::open_existing(dir.path()).await;
        desk.dir = Some(dir);
        desk
    }

    /// Stops the fleet and leaves its directory.
    pub(crate) async fn shut(self) -> TempDir {
        self.fleet.close().await;
        self.dir.expect("a desk that opened its own directory")
    }

    pub(crate) async fn try_call(
        &self,
        operation: &str,
        identity: Option<&Identity>,
        input: Value,
    ) -> Result<Value, CallError> {
        self.reply(operation, identity, input)
            .await
            .map(|reply| reply.output)
    }

    pub(crate) async fn reply(
        &self,
        operation: &str,
        identity: Option<&Identity>,
        input: Value,
    ) -> Result<Reply, CallError> {
        let request = Request {
            input,
            identity: identity.cloned(),
            ..Request::default()
        };
        self.registry.invoke(operation, request).await
    }

    /// Calls as someone at this address.
    pub(crate) async fn call_from(
        &self,
        remote: &str,
        operation: &str,
        input: Value,
    ) -> Result<Value, CallError> {
        let remote: SocketAddr = remote.parse().expect("an address");
        let request = Request {
            input,
            remote: Some(remote),
            ..Request::default()
        };
        self.registry
            .invoke(operation, request)
            .await
            .map(|reply| reply.output)
    }

    /// Calls as the administrator what must succeed.
    pub(crate) async fn call(&self, operation: &str, input: Value) -> Value {
        self.call_as(&self.admin, operation, input).await
    }

    pub(crate) async fn call_as(&self, who: &Identity, operation: &str, input: Value) -> Value {
        let answer = self.try_call(operation, Some(who), input).await;
        answer.unwrap_or_else(|error| panic!("{operation}: {:?} {error}", error.code().as_str()))
    }

    /// Calls as the administrator what must fail, and says with which code.
    pub(crate) async fn refusal(&self, operation: &str, input: Value) -> CallError {
        self.refusal_as(&self.admin, operation, input).await
    }

    pub(crate) async fn refusal_as(
        &self,
        who: &Identity,
        operation: &str,
        input: Value,
    ) -> CallError {
        let kind = self.registry.find(operation).map(|found| found.kind());
        if kind == Some(Kind::Subscription) {
            return match self.subscribe(who, operation, input).await {
                Ok(_) => panic!("{operation} was allowed"),
                Err(error) => error,
            };
        }
        match self.try_call(operation, Some(who), input).await {
            Ok(output) => panic!("{operation} was allowed: {output}"),
            Err(error) => error,
        }
    }

    pub(crate) async fn subscribe(
        &self,
        who: &Identity,
        operation: &str,
        input: Value,
    ) -> Result<BoxStream<'static, Result<Value, CallError>>, CallError> {
        let request = Request {
            input,
            identity: Some(who.clone()),
            ..Request::default()
        };
        let outputs = self.registry.subscribe(operation, request).await?;
        Ok(outputs.boxed())
    }

    /// A team that may bring hosts, and a holder of a key of its own with these scopes.
    pub(crate) async fn team(&self, name: &str, scopes: &[&str]) -> (String, Identity) {
        let team = self
            .call("teams/create", json!({"name": name, "is_byoc": true}))
            .await;
        let id = text(&team["id"]);
        let key = json!({"name": name, "scopes": scopes, "team_id": id});
        (id, self.holder(key).await)
    }

    /// The holder of a new key, made by the administrator.
    pub(crate) async fn holder(&self, key: Value) -> Identity {
        let made = self.call("api-keys/create", key).await;
        identify(&self.fleet, &text(&made["secret"])).await
    }

    /// A pending host and its registration token.
    pub(crate) async fn pending(&self) -> (String, String) {
        let made = self.call("hosts/create", json!({})).await;
        (text(&made["host"]["id"]), text(&made["registration_token"]))
    }

    /// Does with the books what no operation does, for example let time pass.
    pub(crate) async fn tamper(&self, statement: &str) {
        assert!(
            self.execute(statement).await > 0,
            "{statement} changed nothing"
        );
    }

    pub(crate) async fn execute(&self, statement: &str) -> u64 {
        self.try_execute(statement).await.expect(statement)
    }

    /// Runs one statement, or several; how many rows that changed.
    pub(crate) async fn try_execute(&self, statements: &str) -> Result<u64, sqlx::Error> {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements));
        match &self.books {
            Database::Sqlite(path) => {
                let mut db = in_the_file(path).connect().await.expect("the books");
                Ok(statements.execute(&mut db).await?.rows_affected())
            }
            Database::Postgres(_) => {
                let mut db = self.on_the_server().await;
                Ok(statements.execute(&mut db).await?.rows_affected())
            }
            other => panic!("{other}"),
        }
    }

    pub(crate) async fn count(&self, of: &str) -> i64 {
        let query = AssertSqlSafe(format!("SELECT COUNT(*) FROM {of}"));
        let counted = match &self.books {
            Database::Sqlite(path) => {
                let mut db = in_the_file(path).connect().await.expect("the books");
                sqlx::query_scalar(query).fetch_one(&mut db).await
            }
            Database::Postgres(_) => {
                let mut db = self.on_the_server().await;
                sqlx::query_scalar(query).fetch_one(&mut db).await
            }
            other => panic!("{other}"),
        };
        counted.expect(of)
    }

    pub(crate) async fn on_the_server(&self) -> PgConnection {
        let Database::Postgres(url) = &self.books else {
            panic!("the books are a file");
        };
        let connected = PgConnection::connect(url.secret().expose_secret()).await;
        connected.expect("the books")
    }
}

fn in_the_file(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(30))
}

/// Opens the authority; one that was open before lets go when its last task has ended.
async fn authority(dir: &Path, domain: TrustDomain) -> Authority {
    let opening = async {
        loop {
            match Authority::open(&dir.join("ca"), domain.clone()) {
                Err(OpenError::File(FileError::InUse { .. })) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                opened => break opened.expect("an authority"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), opening)
        .await
        .expect("it was let go of")
}

/// How often fifty machines race for a token: a thousand times in a long run (`HOSTLER_LONG=1`).
pub(crate) fn races() -> usize {
    let long = std::env::var_os("HOSTLER_LONG").is_some_and(|long| !long.is_empty() && long != "0");
    if long { 1000 } else { 5 }
}

pub(crate) async fn identify(fleet: &Fleet, bearer: &str) -> Identity {
    let found = fleet.identify(Some(&bearer.into()), None, None).await;
    found.expect("a good key").expect("an identity")
}

pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// A machine that registers, without a certificate.
pub(crate) fn machine(token: &str) -> Value {
    json!({
        "token": token, "address": "192.0.2.7:9443", "arch": "x86_64", "cpu_cores": 4,
        "memory_mb": 8192, "disk_gb": 100,
    })
}
