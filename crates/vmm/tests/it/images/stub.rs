//! A registry that does what real ones do only on bad days. It is strict: what it does not expect
//! it refuses, and remembers.

use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::tarball::{Documents, digest};

/// What is wrong with it.
#[derive(Clone)]
pub(super) enum Trouble {
    None,
    /// So many transfers of a layer end after so many bytes.
    Breaks {
        times: usize,
        after: usize,
    },
    /// The first one ends early, and it takes no part of a blob for an answer.
    BreaksAndIgnoresRanges,
    /// So many requests are answered 503.
    Busy(usize),
    /// It wants a token that it gives itself.
    Token,
    /// It wants a token of somebody else.
    TokenOf(String),
    /// Its layers are elsewhere.
    Redirects(String),
    /// It wants a token, and keeps its layers under another name of its own, where it must not be
    /// shown.
    TokenAndRedirects,
    /// It sends other bytes of the same number.
    OtherBytes,
    /// It sends more than it should, without saying how much.
    Endless,
}

pub(super) struct Stub {
    pub(super) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    trouble: Trouble,
    port: u16,
    /// Requests so far, and transfers of the layer.
    requests: Mutex<Vec<String>>,
    transfers: Mutex<usize>,
}

struct Request {
    target: String,
    range: Option<usize>,
    authorization: Option<String>,
}

impl Stub {
    /// Serves `stub:1`, an image with one layer.
    pub(super) fn serve(layer: Vec<u8>, trouble: Trouble) -> Self {
        let documents = Documents::of(std::slice::from_ref(&layer));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            layer,
            config: documents.config,
            manifest: documents.manifest.to_string().into_bytes(),
            trouble,
            port,
            requests: Mutex::default(),
            transfers: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, shared }
    }

    pub(super) fn name(&self) -> String {
        format!("127.0.0.1:{}/stub:1", self.port)
    }

    /// Every request so far: its path, and where in the blob it wanted to begin.
    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(super) fn transfers(&self) -> usize {
        *self.shared.transfers.lock().unwrap()
    }
}

fn read(reader: &mut impl std::io::BufRead) -> Option<Request> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|count| *count > 0)?;
    let target = line.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1\r\n")?;
    let mut request = Request {
        target: target.to_owned(),
        range: None,
        authorization: None,
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return Some(request);
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let begin = value.strip_prefix("bytes=")?.strip_suffix('-')?;
                request.range = Some(begin.parse().ok()?);
            }
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some(request) = read(&mut reader) {
            let number = {
                let mut requests = self.requests.lock().unwrap();
                let range = request.range.map(|begin| format!(" from {begin}"));
                requests.push(request.target.clone() + &range.unwrap_or_default());
                requests.len()
            };
            if !self.answer(&request, number, &mut stream) {
                return;
            }
        }
    }

    /// Answers, and says whether the connection goes on.
    fn answer(&self, request: &Request, number: usize, stream: &mut TcpStream) -> bool {
        let mut say = |head: &str, body: &[u8]| {
            let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).is_ok() && stream.write_all(body).is_ok()
        };
        if let Trouble::Busy(times) = self.trouble
            && number <= times
        {
            return say("503 Busy\r\nRetry-After: 0", b"");
        }
        let wanted = match self.trouble {
            Trouble::Token | Trouble::TokenOf(_) | Trouble::TokenAndRedirects => {
                Some("Bearer let-me-in")
            }
            _ => None,
        };
        if request.target == format!("/kept/{}", digest(&self.layer)) {
            return match request.authorization {
                None => self.transfer(request.range, stream),
                Some(_) => say("400 Bad Request", b""),
            };
        }
        if let Some(query) = request.target.strip_prefix("/token?") {
            let is_right = query == "service=stub&scope=repository%3Astub%3Apull"
                && request.authorization.is_none();
            return match is_right {
                true => say("200 OK", br#"{"token":"let-me-in","expires_in":60}"#),
                false => say("400 Bad Request", b""),
            };
        }
        if request.authorization.as_deref() != wanted {
            let realm = match &self.trouble {
                Trouble::TokenOf(realm) => realm.clone(),
                _ => format!("http://127.0.0.1:{}/token", self.port),
            };
            let challenge = format!(
                "401 Unauthorized\r\nWWW-Authenticate: Bearer \
                 realm=\"{realm}\",service=\"stub\",scope=\"everything\"",
            );
            return say(
                if wanted.is_some() {
                    &challenge
                } else {
                    "400 Bad Request"
                },
                b"",
            );
        }
        let blob = |content: &[u8]| format!("/v2/stub/blobs/{}", digest(content));
        if request.target == "/v2/stub/manifests/1" {
            return say("200 OK", &self.manifest);
        }
        if request.target == blob(&self.config) {
            return say("200 OK", &self.config);
        }
        if request.target != blob(&self.layer) {
            return say("404 Not Found", b"");
        }
        let digest = digest(&self.layer);
        let location = match &self.trouble {
            Trouble::Redirects(place) => format!("{place}/v2/stub/blobs/{digest}"),
            Trouble::TokenAndRedirects => format!("http://127.0.0.1:{}/kept/{digest}", self.port),
            _ => return self.transfer(request.range, stream),
        };
        say(&format!("307 Elsewhere\r\nLocation: {location}"), b"")
    }

    fn transfer(&self, range: Option<usize>, stream: &mut TcpStream) -> bool {
        let transfer = {
            let mut transfers = self.transfers.lock().unwrap();
            *transfers += 1;
            *transfers
        };
        let mut layer = self.layer.clone();
        let begin = range.unwrap_or(0);
        let mut until = layer.len();
        let mut head = match range {
            Some(begin) => format!(
                "206 Partial Content\r\nContent-Range: bytes {begin}-{}/{}",
                layer.len() - 1,
                layer.len()
            ),
            None => "200 OK".to_owned(),
        };
        let mut from = begin;
        match &self.trouble {
            Trouble::Breaks { times, after } if transfer <= *times => until = begin + after,
            Trouble::BreaksAndIgnoresRanges => {
                (head, from) = ("200 OK".to_owned(), 0);
                if transfer == 1 {
                    until = layer.len() / 2;
                }
            }
            Trouble::OtherBytes => layer.iter_mut().for_each(|byte| *byte ^= 1),
            Trouble::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                while stream.write_all(&layer).is_ok() {}
                return false;
            }
            _ => {}
        }
        let length = layer.len() - from;
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n");
        let sent = stream.write_all(head.as_bytes()).is_ok()
            && stream.write_all(&layer[from..until]).is_ok();
        sent && until == layer.len()
    }
}
