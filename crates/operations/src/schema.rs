//! Schemas: JSON Schema 2020-12 of every input, output and error, derived from the Rust types.
//!
//! An input is checked against its schema before its handler sees it, and a field that the schema
//! does not name is refused: a misspelt option must not be silently ignored.

use std::collections::BTreeMap;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError, Validator};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::error::CallError;

/// At most this many complaints about one input are told at once.
const MAX_COMPLAINTS: usize = 5;

/// At most this many characters of a field's name or of what is wrong with it are told: both may
/// repeat the input, which may be as large as a request.
const MAX_TEXT: usize = 200;

/// Where the schema of a text says its pattern in words, as `a name: lower-case letters and digits`:
/// whoever breaks it is told that the text is not this. Others pass over it, as over all that begins with `x-`.
const RULE: &str = "x-rule";

/// The schema that a caller's input of type `I` must fit. Objects refuse unknown fields.
pub(crate) fn input_schema<I: JsonSchema>() -> Schema {
    let mut schema = SchemaSettings::draft2020_12()
        .for_deserialize()
        .into_generator()
        .into_root_schema_for::<I>();
    let object = schema.get("type").and_then(Value::as_str) == Some("object");
    if object && schema.get("additionalProperties").is_none() {
        // Fields that come from a subschema (a flattened struct) are invisible to the plain form.
        let composed = ["$ref", "allOf", "anyOf", "oneOf"]
            .iter()
            .any(|k| schema.get(*k).is_some());
        let keyword = if composed {
            "unevaluatedProperties"
        } else {
            "additionalProperties"
        };
        schema.insert(keyword.to_owned(), Value::Bool(false));
    }
    schema
}

/// The schema of what an operation answers with.
pub(crate) fn output_schema<O: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<O>()
}

/// A compiled input schema.
pub(crate) struct InputCheck {
    validator: Validator,
    /// The fields of a flat object; in a composed one only the validator knows them.
    fields: Option<Vec<String>>,
    rules: Rules,
}

/// What patterns say, by the pattern: the same one says the same, whoever has it.
type Rules = BTreeMap<String, String>;

impl InputCheck {
    pub(crate) fn new(schema: &Schema) -> Result<Self, String> {
        let validator = jsonschema::draft202012::options()
            .build(schema.as_value())
            .map_err(|error| error.to_string())?;
        let is_flat = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let fields = is_flat.then(|| {
            let properties = schema.get("properties").and_then(Value::as_object);
            properties
                .into_iter()
                .flat_map(Map::keys)
                .cloned()
                .collect()
        });
        let mut rules = Rules::new();
        gather(schema.as_value(), &mut rules);
        Ok(Self {
            validator,
            fields,
            rules,
        })
    }

    /// Says, field by field, what does not fit.
    pub(crate) fn check(&self, input: &Value) -> Result<(), CallError> {
        if self.validator.is_valid(input) {
            return Ok(());
        }
        let mut complaints = self.unknown_fields(input);
        let others = self.validator.iter_errors(input).filter(|error| {
            // Told already, and better.
            let root = error.instance_path().as_str().is_empty();
            let unknown = matches!(
                error.kind(),
                ValidationErrorKind::AdditionalProperties { .. } | ValidationErrorKind::FalseSchema
            );
            !(root && unknown && self.fields.is_some())
        });
        let room = MAX_COMPLAINTS - complaints.len();
        let others = others.map(|error| Complaint::new(&error, &self.rules));
        complaints.extend(others.take(room));
        let texts: Vec<String> = complaints.iter().map(ToString::to_string).collect();
        Err(CallError::invalid_input(texts.join("; "))
            .with_details(json!({ "fields": complaints })))
    }

    fn unknown_fields(&self, input: &Value) -> Vec<Complaint> {
        let (Some(known), Some(given)) = (&self.fields, input.as_object()) else {
            return Vec::new();
        };
        let unknown = given
            .keys()
            .filter(|field| !known.contains(field))
            .take(MAX_COMPLAINTS);
        unknown
            .map(|field| Complaint {
                field: shortened(field.clone()),
                message: match &known[..] {
                    [] => "there is no such field; this takes none".to_owned(),
                    known => format!("there is no such field; there are {}", known.join(", ")),
                },
            })
            .collect()
    }
}

/// Finds the rules of all texts in a schema.
fn gather(schema: &Value, rules: &mut Rules) {
    match schema {
        Value::Object(object) => {
            let text = |keyword| object.get(keyword).and_then(Value::as_str);
            if let Some((pattern, rule)) = text("pattern").zip(text(RULE)) {
                rules.insert(pattern.to_owned(), rule.to_owned());
            }
            object.values().for_each(|inner| gather(inner, rules));
        }
        Value::Array(array) => array.iter().for_each(|inner| gather(inner, rules)),
        _ => {}
    }
}

/// One thing that does not fit.
#[derive(Serialize)]
struct Complaint {
    /// Where, `port_forwards.0.host_port`; empty for the input as a whole.
    field: String,
    message: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.field {
            "" => f.write_str(&self.message),
            field => write!(f, "{field}: {}", self.message),
        }
    }
}

impl Complaint {
    fn new(error: &ValidationError<'_>, rules: &Rules) -> Self {
        if choices(error).is_none()
            && let Some(meant) = meant(error)
        {
            return Self::new(meant, rules);
        }
        let rule = match error.kind() {
            ValidationErrorKind::Pattern { pattern } => rules.get(pattern),
            _ => None,
        };
        let path = error.instance_path().as_str();
        // A text may be a secret in the wrong place; whoever sent it knows what it says.
        let message = match error.instance().as_ref() {
            _ if let Some(choices) = choices(error) => format!("this is none of {choices}"),
            _ if let Some(rule) = rule => format!("this is not {rule}"),
            Value::Bool(_) | Value::Number(_) | Value::Null => error.to_string(),
            _ => error.masked_with("this").to_string(),
        };
        Self {
            field: shortened(path.trim_start_matches('/').replace('/', ".")),
            message: shortened(message),
        }
    }
}

/// What is wrong with something that may also be absent: nobody meant null, so the other branch says.
fn meant<'e, 'i>(error: &'e ValidationError<'i>) -> Option<&'e ValidationError<'i>> {
    let ValidationErrorKind::AnyOf { context } = error.kind() else {
        return None;
    };
    let wants_null = |branch: &Vec<ValidationError<'_>>| {
        let null = |error: &ValidationError<'_>| match error.kind() {
            ValidationErrorKind::Type { kind } => {
                matches!(kind, TypeKind::Single(JsonType::Null))
            }
            _ => false,
        };
        branch.iter().any(null)
    };
    match &context[..] {
        [value, null] | [null, value] if wants_null(null) && !wants_null(value) => value.first(),
        _ => None,
    }
}

/// The values of which there should have been one, where it is a choice among values.
fn choices(error: &ValidationError<'_>) -> Option<String> {
    let (ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context }) =
        error.kind()
    else {
        return None;
    };
    let value = |branch: &Vec<ValidationError<'_>>| {
        branch.iter().find_map(|error| match error.kind() {
            ValidationErrorKind::Constant { expected_value } => Some(expected_value.to_string()),
            ValidationErrorKind::Enum { options } => {
                let options = options.as_array()?.iter();
                Some(options.map(Value::to_string).collect::<Vec<_>>().join(", "))
            }
            _ => choices(error),
        })
    };
    // Where something may also be absent, null is one of the branches, and is not said.
    let values: Vec<String> = context.iter().filter_map(value).collect();
    (!values.is_empty() && values.len() + 1 >= context.len()).then(|| values.join(", "))
}

/// The beginning of a text, when it is a long one.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The schema of one field of an error's details.
#[doc(hidden)]
pub fn field_schema<T: JsonSchema>() -> Schema {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema
}

/// A field's name and what makes its schema.
pub(crate) type Field = (&'static str, fn() -> Schema);

/// The schema of an error's details, from its fields.
#[doc(hidden)]
pub fn details_schema(fields: &[Field]) -> Schema {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema().into()))
        .collect();
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    schemars::json_schema!({ "type": "object", "properties": properties, "required": required })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, JsonSchema)]
    #[allow(dead_code)]
    struct Lend {
        title: String,
        #[serde(default)]
        #[schemars(range(min = 1, max = 30))]
        days: Option<u8>,
    }

    fn complaint(input: Value) -> String {
        let check = InputCheck::new(&input_schema::<Lend>()).expect("a valid schema");
        check
            .check(&input)
            .expect_err("input that does not fit")
            .message()
            .to_owned()
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let text = complaint(json!({"title": "x", "dayz": 3}));
        assert_eq!(text, "dayz: there is no such field; there are days, title");
    }

    #[test]
    fn a_text_that_does_not_fit_is_not_sent_back() {
        let text = complaint(json!({"title": "x", "days": "s3cr3t"}));
        assert!(text.starts_with("days: this is not"), "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
        let text = complaint(json!({"title": "x", "days": 31}));
        assert!(text.contains("31"), "a number helps: {text}");
    }

    #[test]
    fn what_is_none_of_some_choices_is_told_them() {
        #[derive(Deserialize, JsonSchema)]
        #[serde(rename_all = "lowercase")]
        #[allow(dead_code)]
        enum Kind {
            /// Of paper.
            Book,
            /// Of plastic.
            Disc,
        }
        #[derive(Deserialize, JsonSchema)]
        #[allow(dead_code)]
        struct Find {
            kind: Kind,
            #[serde(default)]
            other: Option<Kind>,
        }
        let check = InputCheck::new(&input_schema::<Find>()).expect("a valid schema");
        let refused = check.check(&json!({"kind": "tape", "other": "tape"}));
        assert_eq!(
            refused.expect_err("no such kind").message(),
            "kind: this is none of \"book\", \"disc\"; other: this is none of \"book\", \"disc\""
        );
    }

    #[test]
    fn what_may_be_absent_is_told_what_is_wrong_with_it() {
        #[derive(Deserialize, JsonSchema)]
        #[schemars(extend("pattern" = "^[a-z]{1,3}$"))]
        #[allow(dead_code)]
        struct Short(String);
        #[derive(Deserialize, JsonSchema)]
        #[allow(dead_code)]
        struct Take {
            #[serde(default)]
            name: Option<Short>,
        }
        let check = InputCheck::new(&input_schema::<Take>()).expect("a valid schema");
        let refused = check.check(&json!({"name": "../x"})).expect_err("no name");
        let told = refused.message();
        assert!(told.starts_with("name: this does not match"), "{told}");
    }

    #[test]
    fn who_breaks_a_pattern_is_told_what_it_says() {
        #[derive(Deserialize, JsonSchema)]
        #[schemars(extend("pattern" = "^[a-z]{1,3}$", "x-rule" = "a short name: 1 to 3 lower-case letters"))]
        #[allow(dead_code)]
        struct Short(String);
        #[derive(Deserialize, JsonSchema)]
        #[allow(dead_code)]
        struct Take {
            name: Short,
            #[serde(default)]
            others: Vec<Option<Short>>,
        }
        let check = InputCheck::new(&input_schema::<Take>()).expect("a valid schema");
        let refused = check.check(&json!({"name": "A", "others": ["b", "C"]}));
        assert_eq!(
            refused.expect_err("no names").message(),
            "name: this is not a short name: 1 to 3 lower-case letters; \
             others.1: this is not a short name: 1 to 3 lower-case letters"
        );
    }

    #[test]
    fn a_field_is_refused_by_name_where_there_should_be_none() {
        #[derive(Deserialize, JsonSchema)]
        struct Nothing {}
        let check = InputCheck::new(&input_schema::<Nothing>()).expect("a valid schema");
        let refused = check.check(&json!({"x": 1})).expect_err("an unknown field");
        assert_eq!(
            refused.message(),
            "x: there is no such field; this takes none"
        );
    }

    #[test]
    fn every_complaint_names_its_field() {
        let text = complaint(json!({"title": 7, "days": 31}));
        assert!(
            text.contains("title: ") && text.contains("days: "),
            "{text}"
        );
        assert!(complaint(json!({"days": 3})).contains("title"));
    }

    #[test]
    fn a_complaint_does_not_send_a_large_input_back() {
        let long = "é".repeat(100_000);
        for input in [
            json!({ "title": "x", "days": long }),
            json!({ "title": "x", long.as_str(): 1 }),
        ] {
            let text = complaint(input);
            assert!(text.len() < 1000, "{} bytes", text.len());
            assert!(text.contains("days"), "{text}");
        }
    }

    #[test]
    fn of_many_complaints_the_first_are_told() {
        let mut input = json!({"title": 7, "days": 31});
        for n in 0..20 {
            input[format!("odd-{n}")] = json!(n);
        }
        let check = InputCheck::new(&input_schema::<Lend>()).expect("a valid schema");
        let refused = check.check(&input).expect_err("nothing of it fits");
        let told = refused.details().expect("details")["fields"].as_array();
        assert_eq!(told.map(Vec::len), Some(MAX_COMPLAINTS));
    }

    #[test]
    fn what_fits_passes() {
        let check = InputCheck::new(&input_schema::<Lend>()).expect("a valid schema");
        check
            .check(&json!({"title": "x", "days": 3}))
            .expect("fits");
        check.check(&json!({"title": "x"})).expect("fits");
    }
}
