//! How text becomes the values that a schema asks for.

use std::collections::BTreeMap;

use schemars::Schema;
use serde_json::{Map, Value};

/// Schemas refer to each other in circles; no field's type hides deeper than this.
const MAX_DEPTH: usize = 16;

/// For each field of an input, what text in a path or a query string means for it.
pub(crate) struct Plan {
    fields: BTreeMap<String, Shape>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Text as it is.
    Text,
    /// `true`, `false` or a number.
    Scalar,
    /// One element each time the name comes.
    List(Box<Shape>),
    /// JSON, in text.
    Object,
}

impl Plan {
    pub(crate) fn new(schema: &Schema) -> Self {
        let root = schema.as_value();
        let fields = properties(root)
            .into_iter()
            .map(|(name, property)| (name.to_owned(), shape(root, property, 0)))
            .collect();
        Self { fields }
    }

    /// Whether the input has this field.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    pub(super) fn shape(&self, field: &str) -> &Shape {
        // A field that the input does not have stays text; the schema's check refuses it by name.
        self.fields.get(field).unwrap_or(&Shape::Text)
    }
}

/// The properties of an object's schema, those of its `allOf`, `anyOf` and `oneOf` parts among
/// them (a flattened enum becomes such parts).
pub(crate) fn properties(root: &Value) -> Vec<(&str, &Value)> {
    let mut found = Vec::new();
    collect_properties(root, root, 0, &mut found);
    found
}

fn collect_properties<'s>(
    root: &'s Value,
    schema: &'s Value,
    depth: usize,
    found: &mut Vec<(&'s str, &'s Value)>,
) {
    let Some(object) = resolve(root, schema)
        .as_object()
        .filter(|_| depth < MAX_DEPTH)
    else {
        return;
    };
    for (name, property) in object
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if !found.iter().any(|(known, _)| known == name) {
            found.push((name, property));
        }
    }
    for part in parts(object) {
        collect_properties(root, part, depth + 1, found);
    }
}

fn parts(object: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    ["allOf", "anyOf", "oneOf"]
        .into_iter()
        .filter_map(|keyword| object.get(keyword)?.as_array())
        .flatten()
}

/// Follows a `$ref` inside the document.
pub(crate) fn resolve<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let target = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|r| r.strip_prefix('#'));
    target
        .and_then(|pointer| root.pointer(pointer))
        .unwrap_or(schema)
}

fn shape(root: &Value, property: &Value, depth: usize) -> Shape {
    let mut admits = Admits::default();
    admits.collect(root, property, depth);
    match admits {
        Admits { text: true, .. } => Shape::Text,
        Admits {
            items: Some(items), ..
        } if depth < MAX_DEPTH => Shape::List(Box::new(shape(root, items, depth + 1))),
        Admits { scalar: true, .. } => Shape::Scalar,
        Admits { object: true, .. } => Shape::Object,
        _ => Shape::Text,
    }
}

/// Which JSON types a schema lets through. Text wins over all others: what admits a string takes
/// `"5"` as it stands.
#[derive(Default)]
struct Admits<'s> {
    text: bool,
    scalar: bool,
    object: bool,
    items: Option<&'s Value>,
}

impl<'s> Admits<'s> {
    fn collect(&mut self, root: &'s Value, schema: &'s Value, depth: usize) {
        let Some(schema) = resolve(root, schema)
            .as_object()
            .filter(|_| depth < MAX_DEPTH)
        else {
            return;
        };
        let types = match schema.get("type") {
            Some(Value::Array(types)) => types.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        for name in types.iter().filter_map(Value::as_str) {
            match name {
                "string" => self.text = true,
                "boolean" | "integer" | "number" => self.scalar = true,
                "object" => self.object = true,
                "array" => self.items = Some(schema.get("items").unwrap_or(&Value::Bool(true))),
                _ => {}
            }
        }
        let listed = schema
            .get("enum")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        for value in listed.chain(schema.get("const")) {
            match value {
                Value::String(_) => self.text = true,
                Value::Bool(_) | Value::Number(_) => self.scalar = true,
                _ => {}
            }
        }
        for part in parts(schema) {
            self.collect(root, part, depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape_of(property: Value) -> Shape {
        let schema = json!({
            "properties": { "x": property },
            "$defs": { "Colour": {"oneOf": [{"const": "red"}, {"const": "blue"}]},
                       "Loop": {"$ref": "#/$defs/Loop"},
                       "Tree": {"type": "array", "items": {"$ref": "#/$defs/Tree"}} },
        });
        let schema = Schema::try_from(schema).expect("a schema");
        Plan::new(&schema).shape("x").clone()
    }

    #[test]
    fn the_schema_says_what_text_means() {
        assert_eq!(shape_of(json!({"type": "string"})), Shape::Text);
        assert_eq!(shape_of(json!({"type": ["string", "null"]})), Shape::Text);
        assert_eq!(
            shape_of(json!({"type": ["integer", "null"]})),
            Shape::Scalar
        );
        assert_eq!(shape_of(json!({"type": "boolean"})), Shape::Scalar);
        assert_eq!(
            shape_of(json!({"anyOf": [{"type": "number"}, {"type": "null"}]})),
            Shape::Scalar
        );
        assert_eq!(
            shape_of(json!({"anyOf": [{"type": "number"}, {"type": "string"}]})),
            Shape::Text
        );
        assert_eq!(shape_of(json!({"$ref": "#/$defs/Colour"})), Shape::Text);
        assert_eq!(shape_of(json!({"enum": [1, 2]})), Shape::Scalar);
        assert_eq!(shape_of(json!({"type": "object"})), Shape::Object);
        assert_eq!(shape_of(json!(true)), Shape::Text);
        let list = shape_of(json!({"type": "array", "items": {"type": "integer"}}));
        assert_eq!(list, Shape::List(Box::new(Shape::Scalar)));
    }

    #[test]
    fn schemas_that_go_in_circles_end() {
        assert_eq!(shape_of(json!({"$ref": "#/$defs/Loop"})), Shape::Text);
        assert!(matches!(
            shape_of(json!({"$ref": "#/$defs/Tree"})),
            Shape::List(_)
        ));
    }

    #[test]
    fn fields_of_a_flattened_enum_are_fields() {
        let schema = json!({
            "properties": {"name": {"type": "string"}},
            "oneOf": [{"properties": {"size": {"type": "integer"}}}, {"properties": {}}],
        });
        let plan = Plan::new(&Schema::try_from(schema).expect("a schema"));
        assert!(plan.has("name") && plan.has("size") && !plan.has("colour"));
        assert_eq!(plan.shape("size"), &Shape::Scalar);
    }
}
