//! HTTP/1.1 as Firecracker's own small server speaks it (`micro_http`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api;
use crate::faults::{self, Fault};
use crate::vmm::Vmm;

/// The most bytes that a body may have.
const MAX_BODY: usize = 51_200;

/// The most that a line of the head may have.
const MAX_LINE: u64 = 4096;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Option<Vec<u8>>,
}

/// An answer: its status, and its body if it has one.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
}

impl Answer {
    pub(crate) fn nothing() -> Self {
        Self {
            status: 204,
            body: None,
        }
    }

    pub(crate) fn ok(body: Value) -> Self {
        Self {
            status: 200,
            body: Some(body),
        }
    }

    pub(crate) fn fault(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            body: Some(json!({ "fault_message": message.into() })),
        }
    }
}

/// Answers what comes through a connection until it ends.
pub(crate) fn serve(stream: UnixStream, vmm: &Vmm) {
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(reading);
    let mut writer = stream;
    loop {
        let written = match read(&mut reader) {
            Ok(Some(request)) => answer(&request, vmm, &mut writer),
            Ok(None) => return,
            Err(Bad::Io) => return,
            Err(Bad::Head(text)) => {
                let _ = writer.write_all(raw(400, &text).as_bytes());
                return;
            }
            Err(Bad::TooLarge(size)) => {
                let text = format!(
                    "{{ \"error\": \"Request payload with size {size} is larger than the limit of \
                     {MAX_BODY} allowed by server.\nAll previous unanswered requests will be \
                     dropped.\" }}"
                );
                let _ = writer.write_all(raw(413, &text).as_bytes());
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

fn answer(request: &Request, vmm: &Vmm, writer: &mut UnixStream) -> io::Result<()> {
    let what = format!("{} {}", request.method, request.path);
    match faults::for_request(&request.method, &request.path) {
        None => {}
        Some(Fault::Refuse) => {
            let answer = Answer::fault(400, format!("{what} is refused on purpose."));
            return writer.write_all(raw_of(answer).as_bytes());
        }
        Some(Fault::Garbage) => {
            writer.write_all(b"\x00\xff\xfenot HTTP at all\r\n\r\n")?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Some(Fault::Nonsense) => {
            return writer.write_all(raw(200, "[\"nothing\", \"of\", \"use\"]").as_bytes());
        }
        Some(Fault::Hang) => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        Some(Fault::Die) => std::process::abort(),
    }
    let answer = api::answer(request, vmm);
    let died = answer.status >= 400 && vmm.is_doomed();
    let written = writer.write_all(raw_of(answer).as_bytes());
    if died {
        vmm.end(1);
    }
    written
}

enum Bad {
    Io,
    Head(String),
    TooLarge(usize),
}

impl From<io::Error> for Bad {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Reads a request; none when the other side has left.
fn read(reader: &mut impl BufRead) -> Result<Option<Request>, Bad> {
    let Some(first) = line(reader)? else {
        return Ok(None);
    };
    let mut words = first.split(' ');
    let (Some(method), Some(path), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Bad::Head("Invalid request.".to_owned()));
    };
    if !["HTTP/1.0", "HTTP/1.1"].contains(&version) {
        return Err(Bad::Head("Unsupported HTTP version.".to_owned()));
    }
    if !["GET", "PUT", "PATCH"].contains(&method) {
        return Err(Bad::Head(format!("Invalid HTTP Method: {method}")));
    }
    let mut length = 0;
    loop {
        let header = line(reader)?.ok_or(Bad::Io)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| Bad::Head("Invalid header.".to_owned()))?;
        if name.eq_ignore_ascii_case("content-length") {
            let parsed = value.trim().parse();
            length = parsed.map_err(|_| Bad::Head("Invalid header.".to_owned()))?;
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Bad::Head("Unsupported transfer encoding.".to_owned()));
        }
    }
    if length > MAX_BODY {
        return Err(Bad::TooLarge(length));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        body: (length > 0).then_some(body),
    }))
}

fn line(reader: &mut impl BufRead) -> Result<Option<String>, Bad> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if read == 0 {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|_| Bad::Head("Invalid request.".to_owned()))?;
    match text.strip_suffix("\r\n") {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Bad::Head("Invalid request.".to_owned())),
    }
}

fn raw_of(answer: Answer) -> String {
    match answer.body {
        Some(body) => raw(answer.status, &body.to_string()),
        None => format!(
            "HTTP/1.1 {} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n",
            answer.status
        ),
    }
}

fn raw(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
