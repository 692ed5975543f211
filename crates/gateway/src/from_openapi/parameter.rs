//! Parameters: where each goes, which of them can be sent, and the template of a path.

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use serde_json::{Map, Value};

use super::document::{Document, Found};
use super::media::{content_of, is_json};

/// Headers that no caller chooses: they say to whom a request goes, and where it ends.
const OURS: [HeaderName; 13] = [
    HOST,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    EXPECT,
    COOKIE,
    FORWARDED,
    // What comes back compressed is not looked through for the credential.
    ACCEPT_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("x-real-ip"),
];

/// How the names of others begin of which the same is true: some servers take the host, the path or
/// the method from them.
const OURS_BEGIN: [&str; 5] = [
    "proxy-",
    "x-forwarded-",
    "x-http-method",
    "x-original-",
    "x-rewrite-",
];

fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(name)
        || OURS_BEGIN
            .iter()
            .any(|begin| name.as_str().starts_with(begin))
}

/// A part of a path.
pub(super) enum Piece {
    Fixed(String),
    /// The value of a parameter, by its field.
    Field(String),
}

pub(super) struct Parameter {
    /// As the input has it.
    pub(super) field: String,
    /// As the API has it.
    pub(super) name: String,
    pub(super) place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    /// A list is several fields of one name (`explode`), or one with commas.
    Query {
        explode: bool,
    },
    /// In the query, as JSON.
    QueryJson,
    Header,
}

/// The operation's own parameters, and those of its path that it does not override.
pub(super) fn described_parameters<'d>(
    document: &'d Document,
    found: &Found<'d>,
) -> Result<Vec<&'d Map<String, Value>>, String> {
    let of = |holder: &'d Map<String, Value>| {
        let list = holder.get("parameters").and_then(Value::as_array);
        let all = list.into_iter().flatten().map(|parameter| {
            let parameter = document.resolve(parameter)?.as_object();
            parameter.ok_or_else(|| "one of its parameters is no object".to_owned())
        });
        all.collect::<Result<Vec<_>, _>>()
    };
    let mut all = of(found.operation)?;
    let key = |parameter: &Map<String, Value>| {
        (parameter.get("name").cloned(), parameter.get("in").cloned())
    };
    let own: Vec<_> = all.iter().map(|parameter| key(parameter)).collect();
    let shared = of(found.item)?;
    all.extend(
        shared
            .into_iter()
            .filter(|shared| !own.contains(&key(shared))),
    );
    Ok(all)
}

/// Whether a parameter is this header.
pub(super) fn is_header(described: &Map<String, Value>, header: Option<&HeaderName>) -> bool {
    let text = |field| described.get(field).and_then(Value::as_str);
    let name = text("name").filter(|_| text("in") == Some("header"));
    name.zip(header)
        .is_some_and(|(name, header)| name.eq_ignore_ascii_case(header.as_str()))
}

pub(super) type Described<'d> = (Parameter, &'d Value, bool);

/// A parameter with its schema, and whether it must be there; `None` when it may be left out and
/// cannot be sent.
pub(super) fn parameter(described: &Map<String, Value>) -> Result<Option<Described<'_>>, String> {
    const ANYTHING: &Value = &Value::Bool(true);
    let text = |field| described.get(field).and_then(Value::as_str);
    let flag = |field| described.get(field).and_then(Value::as_bool);
    let name = text("name").filter(|name| !name.is_empty());
    let name = name.ok_or("one of its parameters has no name")?.to_owned();
    let is_required = flag("required").unwrap_or(false);
    let content = described.get("content").and_then(Value::as_object);
    let schema = match content {
        Some(content) => {
            content_of(content, is_json).map(|media| media.get("schema").unwrap_or(ANYTHING))
        }
        None => Some(described.get("schema").unwrap_or(ANYTHING)),
    };
    let style = text("style");
    let explode = flag("explode").unwrap_or(true);
    let place = match text("in") {
        Some("path") if content.is_none() && style.is_none_or(|style| style == "simple") => {
            Some(Place::Path)
        }
        Some("query") if content.is_some() => Some(Place::QueryJson),
        Some("query") if style.is_none_or(|style| style == "form") => {
            Some(Place::Query { explode })
        }
        // These are not parameters there (section 4.8.12).
        Some("header")
            if ["accept", "content-type", "authorization"]
                .contains(&name.to_ascii_lowercase().as_str()) =>
        {
            return Ok(None);
        }
        Some("header")
            if content.is_none()
                && HeaderName::try_from(&name).is_ok_and(|name| !is_ours(&name)) =>
        {
            Some(Place::Header)
        }
        _ => None,
    };
    match (place, schema) {
        (Some(place), Some(schema)) => {
            let field = String::new();
            let parameter = Parameter { field, name, place };
            Ok(Some((
                parameter,
                schema,
                is_required || place == Place::Path,
            )))
        }
        _ if !is_required => Ok(None),
        _ => Err(format!(
            "the parameter {name} cannot be sent as it is described"
        )),
    }
}

impl Place {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query { .. } | Self::QueryJson => "query",
            Self::Header => "header",
        }
    }
}

/// A path template, cut where its values go.
pub(super) fn pieces(path: &str, parameters: &[Parameter]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = path;
    while let Some((fixed, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or("its path has a brace that does not close")?;
        let of_path = |p: &&Parameter| p.place == Place::Path && p.name == name;
        let parameter = parameters.iter().find(of_path);
        let parameter = parameter
            .ok_or_else(|| format!("its path has {{{name}}}, which is no parameter of its"))?;
        pieces.push(Piece::Fixed(fixed.to_owned()));
        pieces.push(Piece::Field(parameter.field.clone()));
        rest = after;
    }
    pieces.push(Piece::Fixed(rest.to_owned()));
    let plain = |piece: &Piece| match piece {
        Piece::Fixed(text) => text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"?#\\{}\"<>^`|".contains(&b)),
        Piece::Field(_) => true,
    };
    let climbs = path
        .split('/')
        .any(|segment| segment == "." || segment == "..");
    match pieces.iter().all(plain) && !climbs {
        true => Ok(pieces),
        false => Err("its path is none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_caller_chooses_host_path_or_method_by_a_header() {
        for ours in [
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "proxy-authorization",
            "x-real-ip",
            "accept-encoding",
        ] {
            assert!(is_ours(&HeaderName::from_static(ours)), "{ours}");
        }
        for theirs in ["x-request-id", "x-api-version", "accept-language"] {
            assert!(!is_ours(&HeaderName::from_static(theirs)), "{theirs}");
        }
    }
}
