//! Three places, one input.

use std::borrow::Cow;

use http::HeaderName;
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::percent;
use super::plan::{Plan, Shape};

/// Why the parts of a request do not make one input.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InputError {
    #[error("the query string is not properly percent-encoded; encode it again as UTF-8")]
    NotEncoded,
    #[error(
        "{0:?} is given more than once, with differing values; \
         give it once, in the path, the query string or the body"
    )]
    Differs(String),
    #[error("the header {0} holds characters that are not ASCII; choose another value")]
    HeaderNotAscii(HeaderName),
    #[error("the body must be a JSON object here, because the path or query string has fields too")]
    BodyNotObject,
}

/// Makes the input from the fields of the path and the headers, the query string and the body.
pub(crate) fn merge<'p>(
    plan: &Plan,
    named: impl Iterator<Item = (&'p str, Cow<'p, str>)>,
    query: Option<&str>,
    body: Option<Value>,
) -> Result<Value, InputError> {
    let mut input = match query {
        Some(query) => read_query(plan, query)?,
        None => Map::new(),
    };
    for (name, text) in named {
        agree(
            &mut input,
            name.to_owned(),
            read(plan.shape(name), text.into_owned()),
        )?;
    }
    match body {
        None => {}
        Some(Value::Object(fields)) if input.is_empty() => input = fields,
        Some(Value::Object(fields)) => {
            for (name, value) in fields {
                agree(&mut input, name, value)?;
            }
        }
        Some(other) if input.is_empty() => return Ok(other),
        Some(_) => return Err(InputError::BodyNotObject),
    }
    Ok(Value::Object(input))
}

fn read_query(plan: &Plan, query: &str) -> Result<Map<String, Value>, InputError> {
    let mut fields = Map::new();
    for pair in percent::pairs(query) {
        let (name, text) = pair.map_err(|_| InputError::NotEncoded)?;
        let value = read(plan.shape(&name), text);
        match (fields.get_mut(&name), value) {
            (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
            (_, value) => agree(&mut fields, name, value)?,
        }
    }
    Ok(fields)
}

fn agree(fields: &mut Map<String, Value>, name: String, value: Value) -> Result<(), InputError> {
    match fields.entry(name) {
        Entry::Vacant(free) => {
            free.insert(value);
            Ok(())
        }
        Entry::Occupied(taken) if *taken.get() == value => Ok(()),
        Entry::Occupied(taken) => Err(InputError::Differs(taken.key().clone())),
    }
}

/// Reads text as its shape says; what does not read so stays text, for the schema to refuse.
fn read(shape: &Shape, text: String) -> Value {
    match shape {
        Shape::Text => Value::String(text),
        Shape::Scalar => scalar(&text).unwrap_or(Value::String(text)),
        Shape::List(items) => Value::Array(vec![read(items, text)]),
        Shape::Object => match serde_json::from_str(&text) {
            Ok(value @ Value::Object(_)) => value,
            _ => Value::String(text),
        },
    }
}

fn scalar(text: &str) -> Option<Value> {
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        // JSON lets a number stand between spaces; a field does not.
        _ if text.contains(|c: char| c.is_ascii_whitespace()) => None,
        _ => serde_json::from_str::<Number>(text).ok().map(Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use schemars::Schema;
    use serde_json::json;

    fn plan() -> Plan {
        let schema = json!({"properties": {
            "name": {"type": "string"},
            "count": {"type": "integer"},
            "force": {"type": ["boolean", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "filter": {"type": "object"},
        }});
        Plan::new(&Schema::try_from(schema).expect("a schema"))
    }

    fn merged(
        path: &[(&str, &str)],
        query: &str,
        body: Option<Value>,
    ) -> Result<Value, InputError> {
        let path = path
            .iter()
            .map(|(name, value)| (*name, Cow::Borrowed(*value)));
        merge(&plan(), path, Some(query), body)
    }

    #[test]
    fn text_is_read_as_the_schema_says() {
        let input = merged(
            &[("name", "7")],
            "count=5&force=true&tags=a&tags=b&sizes=1&filter=%7B%22a%22%3A1%7D&odd=1",
            None,
        );
        assert_eq!(
            input,
            Ok(
                json!({"name": "7", "count": 5, "force": true, "tags": ["a", "b"], "sizes": [1],
                      "filter": {"a": 1}, "odd": "1"})
            )
        );
    }

    #[test]
    fn what_does_not_read_as_its_type_stays_text_for_the_schema_to_refuse() {
        let input = merged(
            &[],
            "count=five&force=yes&sizes=x&filter=%5B%5D&count=five",
            None,
        );
        assert_eq!(
            input,
            Ok(json!({"count": "five", "force": "yes", "sizes": ["x"], "filter": "[]"}))
        );
        assert_eq!(merged(&[], "count=%205", None), Ok(json!({"count": " 5"})));
    }

    #[test]
    fn differing_values_for_one_field_are_an_error() {
        let differs = |field: &str| Err(InputError::Differs(field.to_owned()));
        assert_eq!(merged(&[], "count=1&count=2", None), differs("count"));
        assert_eq!(merged(&[("name", "a")], "name=b", None), differs("name"));
        assert_eq!(
            merged(&[("name", "a")], "", Some(json!({"name": "b"}))),
            differs("name")
        );
        assert_eq!(
            merged(&[], "tags=a", Some(json!({"tags": ["b"]}))),
            differs("tags")
        );
        let same = merged(
            &[("name", "a")],
            "name=a&count=1&count=1",
            Some(json!({"count": 1})),
        );
        assert_eq!(same, Ok(json!({"name": "a", "count": 1})));
    }

    #[test]
    fn a_body_that_is_no_object_stands_alone_or_not_at_all() {
        assert_eq!(merged(&[], "", Some(json!([1]))), Ok(json!([1])));
        assert_eq!(
            merged(&[("name", "a")], "", Some(json!([1]))),
            Err(InputError::BodyNotObject)
        );
    }

    /// An input, and for each field the place that brings it: path, query or body.
    fn inputs() -> impl Strategy<Value = Vec<(&'static str, Value, u8)>> {
        let words = proptest::collection::vec(any::<String>(), 1..4);
        let numbers = proptest::collection::vec(any::<i64>(), 1..4);
        let field =
            |name: &'static str, value: BoxedStrategy<Value>| (Just(name), value, 0..3u8).boxed();
        (
            field("name", any::<String>().prop_map(Value::from).boxed()),
            field("count", any::<i64>().prop_map(Value::from).boxed()),
            field("force", any::<bool>().prop_map(Value::from).boxed()),
            field("tags", words.prop_map(Value::from).boxed()),
            field("sizes", numbers.prop_map(Value::from).boxed()),
        )
            .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
    }

    fn text(value: &Value) -> String {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    }

    proptest! {
        #[test]
        fn an_input_is_the_same_whichever_places_its_fields_come_from(fields in inputs()) {
            let (mut path, mut query, mut body) = (Vec::new(), String::new(), Map::new());
            for (name, value, place) in &fields {
                let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                match place {
                    0 if values.len() == 1 => path.push((*name, Cow::Owned(text(&values[0])))),
                    0 | 1 => for value in values {
                        query.push_str(if query.is_empty() { "" } else { "&" });
                        query.push_str(name);
                        query.push('=');
                        percent::encode_into(&mut query, &text(value));
                    },
                    _ => { body.insert((*name).to_owned(), value.clone()); }
                }
            }
            let whole: Map<_, _> =
                fields.into_iter().map(|(name, value, _)| (name.to_owned(), value)).collect();
            let input = merge(&plan(), path.into_iter(), Some(&query), Some(Value::Object(body)));
            prop_assert_eq!(input, Ok(Value::Object(whole)));
        }

        #[test]
        fn no_query_string_makes_it_stumble(query in "[a-z%=&+0-9]{0,40}") {
            let _ = merged(&[], &query, None);
        }
    }
}
