//! The OpenAPI document, completed: what the types can't say is the same for all operations, or stands in the descriptions.

use serde_json::{Map, Value, json};

/// Answers that any operation may give, with what they mean.
const ANSWERS: [(&str, &str); 15] = [
    ("400", "A value that can't be; the detail names it"),
    ("401", "No token, or one that is unknown, expired or revoked"),
    ("403", "The token's account may not do that"),
    ("404", "There is no such thing in the account, or no such account (`berth-account`)"),
    ("409", "Not in its present state, or the name is taken"),
    ("408", "The body did not arrive in time"),
    ("413", "The body is too long"),
    ("416", "No such part of the file"),
    ("422", "The Idempotency-Key came with another request before"),
    ("429", "More requests than an account may send"),
    ("431", "The request's address and headers are too long"),
    ("500", "The server failed; its log has the reason under the Request-Id"),
    ("502", "A registry or address failed"),
    ("503", "No room, overloaded, or on its way out; Retry-After says when to ask again"),
    ("504", "It took longer than it may"),
];

fn meaning(status: &str) -> &'static str {
    match status {
        "101" => "A session over a WebSocket",
        "200" => "Success",
        "201" => "Made",
        "202" => "Accepted: it goes on, and is a command",
        "204" => "Done",
        "206" => "The part that was asked for",
        other => ANSWERS.iter().find(|(status, _)| *status == other).map_or("An error", |(_, meaning)| meaning),
    }
}

/// The words that a description begins with, where it is a list of them: "`tcp` or `udp`.".
fn words(description: &str) -> Option<Vec<&str>> {
    let mut rest = description;
    let mut all = Vec::new();
    loop {
        let (word, after) = rest.strip_prefix('`')?.split_once('`')?;
        if word.is_empty() || !word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            return None;
        }
        all.push(word);
        let after = match after.strip_prefix(" (").and_then(|noted| noted.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
        if let Some(next) = after.strip_prefix(", `").or_else(|| after.strip_prefix(" or `")) {
            rest = &description[description.len() - next.len() - 1..];
            continue;
        }
        let ends = after.is_empty() || after.starts_with('.') || after.starts_with(',');
        return (all.len() > 1 && ends && !after.contains('…')).then_some(all);
    }
}

/// Fields whose descriptions begin with words that are no choice.
const NO_CHOICE: [&str; 1] = ["user"];

fn is(schema: &Value, kind: &str) -> bool {
    let types = &schema["type"];
    types == kind || types.as_array().is_some_and(|all| all.contains(&kind.into()))
}

/// Bounds a text to a choice of words.
fn bound_to(schema: &mut Value, choice: Option<Vec<&str>>) {
    let Some(choice) = choice.filter(|_| is(schema, "string")) else { return };
    let mut all: Vec<Value> = choice.into_iter().map(Value::from).collect();
    if is(schema, "null") {
        all.push(Value::Null);
    }
    schema["enum"] = all.into();
}

fn complete_schema(schema: &mut Value) {
    let Some(properties) = schema.pointer_mut("/properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        let description = property["description"].as_str().unwrap_or_default().to_owned();
        if !NO_CHOICE.contains(&name.as_str()) {
            bound_to(property, words(&description));
        }
        if is(property, "integer")
            && (name == "host_port" || name == "container_port" || name == "host_port_last" || name == "tcp")
        {
            property["minimum"] = 1.into();
            property["maximum"] = 65_535.into();
        }
    }
}

/// Examples of what is sent, by schema.
fn examples() -> [(&'static str, Value); 8] {
    [
        (
            "ContainerCreate",
            json!({
                "name": "web", "image": "nginx:1", "memory": 67_108_864, "cpus": 0.5, "restart": "always", "start": true,
                "ports": [{ "container_port": 80, "host_port": 8085 }], "env": ["LANG=C.UTF-8"],
            }),
        ),
        ("ContainerUpdate", json!({ "memory": 134_217_728, "ingress": 10_000_000, "egress": 10_000_000 })),
        ("ExecCreate", json!({ "command": ["ls", "-l", "/"] })),
        ("ImagePull", json!({ "image": "docker.io/library/nginx:1" })),
        ("VolumeCreate", json!({ "name": "data" })),
        ("TokenCreate", json!({ "name": "laptop", "account": "shop", "expires_in": 86_400 })),
        ("AccountCreate", json!({ "name": "shop", "quota": { "containers": 10, "memory": 4_294_967_296_u64 } })),
        ("LoginCreate", json!({ "registry": "registry.example", "username": "me", "password": "…" })),
    ]
}

/// Archives and files are bytes, whatever the types say.
fn as_bytes(content: &mut Map<String, Value>) {
    for (kind, body) in content {
        if !kind.contains("json") && !kind.starts_with("text/") {
            body["schema"] = json!({ "type": "string", "format": "binary" });
        }
    }
}

/// What a part of a path names.
fn which(path: &str, name: &str) -> String {
    let place = format!("/{{{name}}}");
    let collection = path.split(&place).next().and_then(|before| before.rsplit('/').next()).unwrap_or_default();
    match collection {
        "containers" => "The container: its id, the beginning of one, or its name".into(),
        "images" => "The image: one of its names, its digest, or the beginning of that".into(),
        "volumes" => "The volume's name".into(),
        "services" => "The service's name".into(),
        "groups" => "The group's name within its service".into(),
        "hosts" => "The host: its number, id or name".into(),
        "accounts" => "The account's name".into(),
        "commands" => "The command: its id or number".into(),
        "registries" => "The registry's host".into(),
        other => format!("Which of {}", other.replace(['-', '_'], " ")),
    }
}

fn complete_operation(method: &str, path: &str, operation: &mut Value) {
    // Handlers are named within their file only.
    let of = path.split('/').nth(2).unwrap_or_default().replace('-', "_");
    if let Some(id) = operation["operationId"].as_str() {
        operation["operationId"] = format!("{of}_{id}").into();
    }
    let is_keyed = method.to_uppercase().parse().is_ok_and(|method| super::idempotency::takes_key(&method, path));
    let takes_body = operation.get("requestBody").is_some();
    let takes_path = path.contains('{');
    // By pointer: an index would put a null where there is nothing.
    if let Some(content) = operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut) {
        as_bytes(content);
    }
    let Some(responses) = operation.pointer_mut("/responses").and_then(Value::as_object_mut) else { return };
    for (status, meaning) in ANSWERS {
        let possible = match status {
            "409" => method != "get" || takes_path,
            "408" | "413" => takes_body,
            "416" => method == "get" && path.ends_with("/files"),
            "422" => is_keyed,
            "502" | "504" => method != "get",
            _ => true,
        };
        if possible && !responses.contains_key(status) {
            responses.insert(status.to_owned(), json!({ "description": meaning }));
        }
    }
    for (status, response) in responses {
        if response["description"].as_str().is_none_or(str::is_empty) {
            response["description"] = meaning(status).into();
        }
        if let Some(content) = response.pointer_mut("/content").and_then(Value::as_object_mut) {
            as_bytes(content);
        }
        if status.as_bytes()[0] >= b'4' {
            let problem = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
            response["content"] = json!({ "application/problem+json": problem });
        }
    }
    for parameter in operation.pointer_mut("/parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        if parameter["description"].as_str().is_none_or(str::is_empty) {
            let name = parameter["name"].as_str().unwrap_or_default();
            parameter["description"] = which(path, name).into();
        }
        let description = parameter["description"].as_str().unwrap_or_default().to_owned();
        let told = description.split_once(": ").map_or(description.as_str(), |(_, choice)| choice);
        bound_to(&mut parameter["schema"], words(&description).or_else(|| words(told)));
    }
    let mut headers = vec![json!({
        "name": "berth-account", "in": "header", "required": false, "schema": { "type": "string" },
        "description": "The account that an administrator acts for, instead of its own.",
    })];
    if is_keyed {
        headers.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
            "description": "The same request with the same key is done once in a day; the later ones are answered as the first was.",
        }));
    }
    match operation.pointer_mut("/parameters").and_then(Value::as_array_mut) {
        Some(parameters) => parameters.extend(headers),
        None => operation["parameters"] = headers.into(),
    }
}

/// Completes a document.
pub(super) fn complete(mut document: Value) -> Value {
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["info"]["license"] = json!({ "name": "Apache-2.0", "identifier": "Apache-2.0" });
    document["servers"] = json!([{ "url": "/", "description": "This server" }]);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.values_mut().for_each(complete_schema);
        for (name, example) in examples() {
            if let Some(schema) = schemas.get_mut(name) {
                schema["examples"] = json!([example]);
            }
        }
    }
    if let Some(paths) = document.pointer_mut("/paths").and_then(Value::as_object_mut) {
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().unwrap_or(&mut Map::new()) {
                if operation.get("responses").is_some() {
                    complete_operation(method, path, operation);
                }
            }
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::words;

    #[test]
    fn choices_are_read_from_descriptions() {
        assert_eq!(words("`tcp` or `udp`."), Some(vec!["tcp", "udp"]));
        assert_eq!(words("`parallel` (default) or `sequential`."), Some(vec!["parallel", "sequential"]));
        assert_eq!(words("`a`, `b` or `c`, when it is done."), Some(vec!["a", "b", "c"]));
        for open in ["`start`, `stop` …", "`no`, `on-failure:N` or `always`", "`linux/arm64`; else", "Port", "`one`."]
        {
            assert_eq!(words(open), None, "{open}");
        }
    }

    /// An answer with a secret is not kept for an `Idempotency-Key`.
    #[test]
    fn changes_that_show_a_secret_take_no_key() {
        const WITHOUT_SECRET: [&str; 2] = ["/v1/keys/{key}/disable", "/v1/keys/{key}/enable"];
        let document = crate::native::openapi();
        let mut found = 0;
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                let answers = operation["responses"].as_object().expect("answers").values();
                let schemas = answers.filter_map(|a| a["content"]["application/json"]["schema"]["$ref"].as_str());
                let shows = schemas.filter_map(|name| name.rsplit('/').next()).any(|name| {
                    let fields = document["components"]["schemas"][name]["properties"].as_object();
                    fields.into_iter().flatten().any(|(field, _)| {
                        ["token", "password", "csrf", "private_key", "secret_key"].contains(&field.as_str())
                    })
                });
                let method = method.to_uppercase().parse::<axum::http::Method>().expect("a method");
                if shows && !method.is_safe() && !WITHOUT_SECRET.contains(&path.as_str()) {
                    found += 1;
                    assert!(!crate::native::idempotency::takes_key(&method, path), "{method} {path}");
                }
            }
        }
        assert_eq!(found, 5, "tokens, keys, rotated keys, SSH keys, sessions");
    }

    #[test]
    fn every_parameter_is_described() {
        let document = crate::native::openapi();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for operation in item.as_object().expect("operations").values() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let told = parameter["description"].as_str().unwrap_or_default();
                    assert!(told.len() > 5 && told != "Which of ", "{path}: {parameter}");
                }
            }
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_every_answer_a_description() {
        let document = crate::native::openapi();
        let mut names = BTreeSet::new();
        let mut count = 0;
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                count += 1;
                let name = operation["operationId"].as_str().expect("a name");
                assert!(names.insert(name.to_owned()), "{method} {path}: {name} is another one's name");
                let text = operation["summary"].as_str().or(operation["description"].as_str()).unwrap_or_default();
                assert!(!text.is_empty(), "{method} {path} is not described");
                for (status, response) in operation["responses"].as_object().expect("answers") {
                    assert!(
                        response["description"].as_str().is_some_and(|d| !d.is_empty()),
                        "{method} {path} {status}"
                    );
                    let is_error = status.as_bytes()[0] >= b'4';
                    let as_problem = response["content"]["application/problem+json"].is_object();
                    assert_eq!(is_error, as_problem, "{method} {path} {status}: {response}");
                }
            }
        }
        assert!(count > 95, "{count} operations");
        let text = document.to_string();
        for key in ["content", "properties", "requestBody", "responses", "schema", "type"] {
            assert!(!text.contains(&format!("\"{key}\":null")), "{key} is null somewhere");
        }
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["Container"]["properties"]["state"]["enum"][1], "running");
        assert!(schemas["ContainerCreate"]["properties"]["user"].get("enum").is_none());
        assert_eq!(schemas["Port"]["properties"]["host_port"]["maximum"], 65_535);
        let choice = |path: &str, name: &str| {
            let all = document["paths"][path]["get"]["parameters"].as_array().expect("parameters");
            all.iter().find(|each| each["name"] == name).expect("the parameter")["schema"]["enum"].clone()
        };
        assert_eq!(choice("/v1/containers", "state")[1], "running");
        assert_eq!(choice("/v1/containers/{id}/logs", "format")[1], "text");
        assert_eq!(choice("/v1/bandwidth", "by")[0], "account");
        assert!(schemas["ContainerCreate"]["examples"][0]["image"].is_string());
    }
}
