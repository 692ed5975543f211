//! The OpenAPI document against itself and against what really answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::world::{Answer, World, call};

async fn document(world: &World, token: &str) -> Value {
    let answer = world.get(token, "/openapi.json").await;
    assert_eq!(answer.status, 200);
    answer.json()
}

fn each_operation(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods");
            methods
                .iter()
                .map(move |(method, operation)| (path, method, operation))
        })
}

fn each_ref<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|value| each_ref(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| each_ref(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_reference_resolves_and_every_operation_id_is_unique() {
    let world = World::start().await;
    let document = document(&world, "writer").await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(
        document["info"],
        json!({"title": "Bookshelf", "version": "1.2.3"})
    );
    let mut references = Vec::new();
    each_ref(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("inside the document");
        assert!(
            document.pointer(pointer).is_some(),
            "{reference} leads nowhere"
        );
    }
    let mut ids = BTreeSet::new();
    for (path, method, operation) in each_operation(&document) {
        let id = operation["operationId"].as_str().expect("an id");
        assert!(
            ids.insert(id),
            "{id} is there twice, again at {method} {path}"
        );
    }
    let text = document.to_string();
    assert!(
        !text.contains("$defs") && !text.contains("$schema\""),
        "definitions are left behind"
    );
}

#[tokio::test]
async fn path_fields_are_parameters_and_the_rest_is_in_the_query_or_in_the_body() {
    let world = World::start().await;
    let document = document(&world, "writer").await;
    for (path, method, operation) in each_operation(&document) {
        let parameters = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let in_path: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| {
                assert_eq!(parameter["required"], true);
                parameter["name"].as_str().expect("a name").to_owned()
            })
            .collect();
        let in_template: BTreeSet<_> = path
            .split('/')
            .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
            .map(str::to_owned)
            .collect();
        assert_eq!(in_path, in_template, "{method} {path}");
    }
    let delete = &document["paths"]["/v1/books/{title}"]["delete"];
    assert_eq!(delete["parameters"][1]["name"], "title");
    assert_eq!(delete["parameters"][0]["name"], "force");
    assert_eq!(delete["parameters"][0]["in"], "query");
    assert!(delete.get("requestBody").is_none());
    let lend = &document["paths"]["/v1/books/{title}/lend"]["post"];
    let body = &lend["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(
        body["properties"]
            .as_object()
            .expect("properties")
            .keys()
            .collect::<Vec<_>>(),
        ["days"]
    );
    assert_eq!(lend["requestBody"]["required"], false);
    let create = &document["paths"]["/books/create"]["post"];
    let body = &create["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["$ref"], "#/components/schemas/CreateBook");
}

#[tokio::test]
async fn each_caller_reads_of_what_they_may_use_and_of_nothing_internal() {
    let world = World::start().await;
    for (token, sees, does_not_see) in [
        (
            "",
            &["/v1/who", "/services/list"][..],
            &["/v1/books", "/books/create"][..],
        ),
        (
            "reader",
            &["/v1/books", "/books/watch", "/v1/who"],
            &["/books/create"],
        ),
        (
            "writer",
            &["/v1/books", "/books/create", "/books/lend"],
            &["/books/shred"],
        ),
    ] {
        let document = document(&world, token).await;
        for path in sees {
            assert!(
                document["paths"].get(path).is_some(),
                "{token:?} misses {path}"
            );
        }
        for path in does_not_see.iter().chain(&["/books/shred"]) {
            let methods = document["paths"].get(path).and_then(Value::as_object);
            let secret = methods.is_some_and(|m| token == "reader" || m.contains_key("post"));
            assert!(!secret, "{token:?} reads of {path}");
        }
        assert!(!document.to_string().contains("shred"));
    }
    assert_eq!(world.get("stolen", "/openapi.json").await.failure().0, 401);
}

#[tokio::test]
async fn access_is_told_as_alternatives_each_of_which_is_enough() {
    let world = World::start().await;
    let document = document(&world, "writer").await;
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    assert_eq!(schemes["x-shelf-token"]["name"], "x-shelf-token");
    assert_eq!(document["paths"]["/v1/who"]["get"]["security"], json!([]));
    assert_eq!(
        document["paths"]["/v1/books"]["post"]["security"],
        json!([{"bearer": ["books:write"]}, {"x-shelf-token": ["books:write"]}])
    );
    let either = &document["paths"]["/books/lend"]["post"]["security"];
    assert_eq!(either.as_array().expect("alternatives").len(), 4);
}

/// Checks an answer against what the document says of its status.
#[track_caller]
fn fits(document: &Value, path: &str, method: &str, answer: &Answer) {
    let operation = &document["paths"][path][method];
    let mut response = &operation["responses"][answer.status.as_str()];
    if let Some(reference) = response["$ref"].as_str() {
        response = document.pointer(&reference[1..]).expect("a response");
    }
    assert!(
        response.is_object(),
        "{method} {path}: {} is not documented",
        answer.status
    );
    if answer.body.is_empty() {
        assert!(
            response.get("content").is_none(),
            "{method} {path} has a body in the document"
        );
        return;
    }
    let mut schema = response["content"]["application/json"]["schema"].clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::new(&schema).expect("a valid schema");
    if let Err(error) = validator.validate(&answer.json()) {
        panic!("{method} {path}: {error}\n{}", answer.json());
    }
}

#[tokio::test]
async fn what_answers_is_what_is_documented() {
    let world = World::start().await;
    let document = document(&world, "writer").await;
    let solaris = json!({"title": "Solaris", "pages": 204});
    for (template, method, path, token, body) in [
        ("/v1/books", "get", "/v1/books?limit=1", "reader", None),
        ("/v1/books", "get", "/v1/books?limit=0", "reader", None),
        ("/v1/books", "get", "/v1/books", "", None),
        (
            "/v1/books",
            "post",
            "/v1/books",
            "writer",
            Some(solaris.clone()),
        ),
        (
            "/v1/books",
            "post",
            "/v1/books",
            "writer",
            Some(solaris.clone()),
        ),
        (
            "/v1/books",
            "post",
            "/v1/books",
            "reader",
            Some(solaris.clone()),
        ),
        (
            "/v1/books",
            "post",
            "/v1/books",
            "stolen",
            Some(solaris.clone()),
        ),
        (
            "/v1/books",
            "post",
            "/v1/books",
            "nobody-home",
            Some(solaris.clone()),
        ),
        (
            "/v1/books",
            "post",
            "/v1/books",
            "writer",
            Some(json!({"titel": 1})),
        ),
        (
            "/books/create",
            "post",
            "/books/create",
            "writer",
            Some(solaris.clone()),
        ),
        (
            "/books/create",
            "post",
            "/books/create",
            "writer",
            Some(json!({"titel": 1})),
        ),
        (
            "/books/create",
            "post",
            "/books/create",
            "",
            Some(solaris.clone()),
        ),
        (
            "/v1/books/{title}",
            "get",
            "/v1/books/Solaris",
            "reader",
            None,
        ),
        (
            "/v1/books/{title}",
            "get",
            "/v1/books/Nothing",
            "reader",
            None,
        ),
        (
            "/v1/books/{title}",
            "delete",
            "/v1/books/Solaris?force=true",
            "writer",
            None,
        ),
        (
            "/v1/books/{title}/lend",
            "post",
            "/v1/books/Dune/lend",
            "reader",
            None,
        ),
        ("/rooms/dawdle", "post", "/rooms/dawdle", "", None),
        ("/v1/trip", "get", "/v1/trip", "", None),
        ("/v1/who", "get", "/v1/who", "", None),
        ("/services/list", "get", "/services/list", "", None),
        (
            "/services/schema",
            "post",
            "/services/schema",
            "",
            Some(json!({"operation": "no/no"})),
        ),
    ] {
        let answer = world
            .send(call(&method.to_uppercase(), path, token, body.as_ref()))
            .await;
        fits(&document, template, method, &answer);
    }
}

#[tokio::test]
async fn the_page_for_people_comes_from_here_alone_and_names_nobody() {
    let world = World::start().await;
    let page = world.get("", "/docs").await;
    let text = String::from_utf8(page.body.to_vec()).expect("text");
    let mut files = vec![page];
    // Whatever it loads is its own.
    for part in text
        .split('"')
        .filter(|part| part.contains('/') && !part.contains(' '))
    {
        assert!(
            part.starts_with("/docs/") || part == "/openapi.json",
            "{part}"
        );
        if part != "/openapi.json" {
            files.push(world.get("", part).await);
        }
    }
    assert_eq!(files.len(), 3, "a page, a style and a script");
    for file in files {
        assert_eq!(file.status, 200);
        let policy = file.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'"),
            "{policy}"
        );
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let text = String::from_utf8_lossy(&file.body).to_lowercase();
        assert!(!text.contains("hostler") && !text.contains("://"), "{text}");
    }
    let anonymous = document(&world, "").await;
    assert_eq!(
        anonymous["info"],
        json!({"title": "Operations", "version": "0.0.0"})
    );
    assert_eq!(
        document(&world, "reader").await["info"]["title"],
        "Bookshelf"
    );
}
