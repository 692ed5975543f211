//! What a stranger finds.

use hostler_gateway::{Decoy, DoorLimits};
use http::header::{DATE, HeaderName};

use crate::world::{Answer, World, call};

/// Everything of an answer that a stranger could compare.
fn visible(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let varying = [DATE, HeaderName::from_static("x-request-id")];
    let headers = answer
        .headers
        .iter()
        .filter(|(name, _)| !varying.contains(name))
        .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned()))
        .collect();
    (answer.status.as_u16(), headers, answer.body.to_vec())
}

#[tokio::test]
async fn an_internal_operation_answers_as_an_unknown_path_does_byte_for_byte() {
    let world = World::start().await;
    for mut client in [world.http1().await, world.http2().await] {
        for (method, token) in [
            ("GET", ""),
            ("POST", ""),
            ("POST", "writer"),
            ("DELETE", ""),
        ] {
            let internal = client.send(call(method, "/books/shred", token, None)).await;
            let unknown = client
                .send(call(method, "/books/nothing", token, None))
                .await;
            assert_eq!(visible(&internal), visible(&unknown), "{method}");
            assert_eq!(internal.status, 404);
        }
    }
}

#[tokio::test]
async fn the_plain_page_names_no_software() {
    let world = World::start().await;
    for path in [
        "/",
        "/admin",
        "/v1",
        "/v1/books/",
        "/books",
        "/%2e%2e",
        "/mcp",
    ] {
        let answer = world.get("", path).await;
        assert_eq!(answer.status, 404, "{path}");
        let (_, headers, body) = visible(&answer);
        let shown = format!("{headers:?}{}", String::from_utf8_lossy(&body)).to_lowercase();
        for name in ["hostler", "hyper", "axum", "rust", "nginx", "\"server\""] {
            assert!(!shown.contains(name), "{path} says {name}: {shown}");
        }
    }
}

#[tokio::test]
async fn a_redirect_leads_away_from_everything_but_the_operations() {
    let to = "https://example.com/elsewhere?x=1".parse().expect("a URL");
    let limits = DoorLimits::default();
    let world = World::with(limits, |adapter| adapter.decoy(Decoy::Redirect(to))).await;
    let answer = world.get("", "/anything").await;
    assert_eq!(answer.status, 302);
    assert_eq!(
        answer.header("location"),
        Some("https://example.com/elsewhere?x=1")
    );
    assert_eq!(world.get("", "/v1/who").await.status, 200);
}

#[tokio::test]
async fn a_site_shows_its_files_and_there_is_no_way_out_of_it() {
    use std::fs;
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("secret.txt"), "secret").expect("a file");
    let site = outside.path().join("site");
    fs::create_dir_all(site.join("blog")).expect("a directory");
    fs::write(site.join("index.html"), "<h1>Welcome</h1>").expect("a file");
    fs::write(site.join("blog/index.html"), "<h1>Blog</h1>").expect("a file");
    fs::write(site.join("style.css"), "body{}").expect("a file");
    fs::write(site.join(".hidden"), "secret").expect("a file");
    fs::write(site.join("big.bin"), vec![7; 300_000]).expect("a file");
    symlink("../secret.txt", site.join("link.txt")).expect("a link");
    symlink("..", site.join("up")).expect("a link");
    rustix::fs::mkfifoat(rustix::fs::CWD, site.join("pipe"), rustix::fs::Mode::RUSR).expect("pipe");

    let limits = DoorLimits::default();
    let world = World::with(limits, |adapter| adapter.decoy(Decoy::Site(site))).await;
    for (path, kind, content) in [
        ("/", "text/html; charset=utf-8", "<h1>Welcome</h1>"),
        ("/blog/", "text/html; charset=utf-8", "<h1>Blog</h1>"),
        ("/style.css", "text/css; charset=utf-8", "body{}"),
    ] {
        let answer = world.get("", path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_ref()),
            (200, content.as_bytes())
        );
        assert_eq!(answer.header("content-type"), Some(kind));
    }
    assert_eq!(world.get("", "/big.bin").await.body.len(), 300_000);
    let head = world.send(call("HEAD", "/big.bin", "", None)).await;
    assert_eq!(head.header("content-length"), Some("300000"));
    for (path, to) in [
        ("/blog", "/blog/"),
        ("/blog?", "/blog/"),
        ("/blog?page=2&a", "/blog/?page=2&a"),
    ] {
        let directory = world.get("", path).await;
        assert_eq!(directory.header("location"), Some(to));
    }
    for path in [
        "/missing.html",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/blog/..%2f..%2fsecret.txt",
        "/blog/%2e%2e/%2e%2e/secret.txt",
        "/link.txt",
        "/up/secret.txt",
        "/.hidden",
        "/%2ehidden",
        "/pipe",
        "//index.html",
        "/index.html/",
    ] {
        let answer = world.get("", path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(
            !answer.body.windows(6).any(|bytes| bytes == b"secret"),
            "{path}"
        );
    }
    assert_eq!(world.send(call("POST", "/", "", None)).await.status, 404);
    assert_eq!(world.get("", "/v1/who").await.status, 200);
}

#[tokio::test]
async fn a_site_that_is_not_there_is_an_error_at_start() {
    let shelf = std::sync::Arc::default();
    let registry = crate::shelf::registry(&shelf);
    let missing = Decoy::Site("/nonexistent/site".into());
    let built = hostler_gateway::HttpAdapter::builder(registry, crate::world::porter())
        .decoy(missing)
        .build();
    let error = built.err().expect("no adapter").to_string();
    assert!(error.contains("/nonexistent/site"), "{error}");
}
