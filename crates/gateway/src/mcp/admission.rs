//! From where requests may come: the names by which the door is called, and the origins of pages.
//!
//! A token is needed in any case. This is for the case that a browser has one: a foreign page must
//! not be able to use it, neither openly (another origin) nor by a name of its own that leads to
//! our address (DNS rebinding).

use http::header::{HOST, ORIGIN};
use http::request;

use super::Mcp;

/// A request that comes from where none may come from, and why.
pub(crate) struct Foreign(pub(crate) &'static str);

pub(super) fn check(config: &Mcp, head: &request::Parts) -> Result<(), Foreign> {
    let authority = authority(head).unwrap_or_default();
    if !config.hosts.contains(&bare(&authority)) {
        return Err(Foreign(
            "this server is not called by that name here; use the name that its certificate has",
        ));
    }
    let mut origins = head.headers.get_all(ORIGIN).iter();
    let foreign = origins.any(|origin| match origin.to_str() {
        Ok(origin) => {
            let own = format!("https://{authority}");
            !origin.eq_ignore_ascii_case(&own) && !config.origins.iter().any(|o| o == origin)
        }
        Err(_) => true,
    });
    match foreign {
        true => Err(Foreign("pages of that origin may not call here")),
        false => Ok(()),
    }
}

/// Host and port as the client wrote them, from wherever its version of HTTP has them.
fn authority(head: &request::Parts) -> Option<String> {
    if let Some(authority) = head.uri.authority() {
        return Some(authority.as_str().to_ascii_lowercase());
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    // Two of them would let two programs read two different ones.
    hosts
        .next()
        .is_none()
        .then(|| host.trim().to_ascii_lowercase())
}

/// The name or the address alone, in lower case and without brackets.
pub(super) fn bare(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    if let Some((address, _)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        return address.to_owned();
    }
    // More than one colon and no brackets: an IPv6 address without a port.
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(host: &str, origin: Option<&str>) -> bool {
        let app = "https://app.example.org".parse().expect("a URL");
        let config = Mcp::new(["localhost", "10.0.0.7", "::1", "Cloud.Example"]).origin(&app);
        let mut request = http::Request::post("/mcp").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        check(&config, &head).is_ok()
    }

    #[test]
    fn only_our_own_names_are_answered_whatever_the_port() {
        for ours in [
            "localhost",
            "LOCALHOST:8443",
            "10.0.0.7:1",
            "[::1]:8443",
            "[::1]",
            "cloud.example",
        ] {
            assert!(admitted(ours, None), "{ours}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.example:localhost",
            "10.0.0.70",
        ] {
            assert!(!admitted(other, None), "{other}");
        }
    }

    #[test]
    fn a_page_may_call_from_our_own_origin_or_from_one_that_was_allowed() {
        assert!(admitted("localhost:8443", Some("https://localhost:8443")));
        assert!(admitted("localhost", Some("https://app.example.org")));
        for other in [
            "http://localhost:8443",
            "https://localhost:9",
            "https://evil.example",
            "null",
            "",
            "https://app.example.org.evil.example",
        ] {
            assert!(!admitted("localhost:8443", Some(other)), "{other}");
        }
    }
}
