//! One schema for both directions: what only an answer has need not be sent.

use super::*;

/// An API with these schemas, and an operation for each that takes it and answers with it.
fn both_ways(schemas: &Value) -> Value {
    let paths = schemas.as_object().expect("schemas").keys().map(|name| {
        let content = json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } });
        let operation = json!({
            "operationId": format!("put {name}"),
            "requestBody": { "required": true, "content": content },
            "responses": { "200": { "description": "It.", "content": content } },
        });
        (format!("/{name}"), json!({ "put": operation }))
    });
    json!({
        "openapi": "3.0.3",
        "paths": paths.collect::<serde_json::Map<_, _>>(),
        "components": { "schemas": schemas },
    })
}

#[tokio::test]
async fn what_only_an_answer_has_is_not_required_of_a_request() {
    let api = Api::start().await;
    let text = json!({ "type": "string" });
    let id = json!({ "type": "string", "readOnly": true });
    let secret = json!({ "type": "string", "writeOnly": true });
    let document = both_ways(&json!({
        "Id": id,
        "Base": { "type": "object", "properties": { "id": { "$ref": "#/components/schemas/Id" } } },
        "flat": {
            "type": "object",
            "required": ["id", "name", "secret"],
            "properties": { "id": id, "name": text, "secret": secret },
        },
        "referring": {
            "required": ["id", "name"],
            "properties": { "id": { "allOf": [{ "$ref": "#/components/schemas/Id" }] }, "name": text },
        },
        "branched": { "allOf": [
            { "$ref": "#/components/schemas/Base" },
            { "required": ["id", "name"], "properties": { "name": text } },
        ] },
        "endless": {
            "required": ["id", "name"],
            "allOf": [{ "$ref": "#/components/schemas/endless-too" }],
        },
        "endless-too": { "properties": { "self": { "$ref": "#/components/schemas/endless" } } },
    }));
    let acme = router(api.attached(&document));
    for (path, valid) in [
        ("/acme/put-flat", json!({"name": "n", "secret": "s"})),
        ("/acme/put-referring", json!({"name": "n"})),
        ("/acme/put-branched", json!({"name": "n"})),
    ] {
        let taken = ask(&acme, "reader", path, json!({ "body": valid })).await;
        assert_eq!(taken.status, 200, "{path}: {}", taken.text);
        // What goes this way is still asked for.
        for name in valid.as_object().expect("fields").keys() {
            let mut less = valid.clone();
            less.as_object_mut().expect("fields").remove(name);
            let refused = ask(&acme, "reader", path, json!({ "body": less })).await;
            assert_eq!(refused.status, 422, "{path}: {less}: {}", refused.text);
            assert!(refused.text.contains(name.as_str()), "{}", refused.text);
        }
    }
}

#[tokio::test]
async fn the_two_forms_of_one_schema_have_two_names_in_the_document() {
    let api = Api::start().await;
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let same = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
    let order = json!({
        "type": "object",
        "required": ["id", "name", "pin"],
        "properties": {
            "id": { "type": "string", "readOnly": true },
            "pin": { "type": "string", "writeOnly": true },
            "name": schema("Same"),
            "next": schema("Order"),
        },
    });
    let list = json!({ "type": "array", "items": schema("Order") });
    let document = both_ways(&json!({ "Same": same, "Order": order, "List": list }));
    let acme = router(api.attached(&document));
    let told = acme
        .oneshot(call("GET", "/openapi.json", "reader", None).map(Body::new))
        .await
        .expect("infallible");
    let told = told.into_body().collect().await.expect("it").to_bytes();
    let told: Value = serde_json::from_slice(&told).expect("JSON");
    let schemas = told["components"]["schemas"].as_object().expect("schemas");
    let names: Vec<&str> = schemas.keys().map(String::as_str).collect();
    let forms = |name: &str| -> Vec<&str> {
        let begins = format!("Acme{name}");
        let of = names.iter().filter(|known| known.starts_with(&begins));
        of.copied().collect()
    };
    assert_eq!(forms("Same"), ["AcmeSame"]);
    assert_eq!(forms("Order"), ["AcmeOrder", "AcmeOrder.Output"]);
    assert_eq!(forms("List"), ["AcmeList", "AcmeList.Output"]);
    let required = |name: &str| schemas[name]["required"].clone();
    assert_eq!(required("AcmeOrder"), json!(["name", "pin"]));
    assert_eq!(required("AcmeOrder.Output"), json!(["id", "name"]));
    let next = &schemas["AcmeOrder.Output"]["properties"]["next"];
    assert_eq!(next["$ref"], "#/components/schemas/AcmeOrder.Output");
    assert_eq!(
        schemas["AcmeOrder"]["properties"]["id"]["readOnly"], true,
        "a caller reads whose field it is"
    );
}
