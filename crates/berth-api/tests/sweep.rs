//! Every operation of every dialect against what clients get wrong: method, type of each parameter, missing parameters, ids that
//! nobody has or another account has, bodies that are too long or can't be read. The answer is the dialect's own each time.

#[path = "fleet/mod.rs"]
#[allow(dead_code, reason = "each test uses a part of the harness")]
mod harness;

use std::collections::{BTreeMap, BTreeSet};

use berth_core::{AccountChange, Role, Settings};
use harness::{Answer, Fleet};
use serde_json::{Map, Value, json};

/// Where an operation's parameters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Query,
    Json,
    /// A JSON array of objects.
    Batch,
}

/// What a parameter is; what is sent instead is anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A whole number.
    Int,
    /// Any number.
    Number,
    Flag,
    /// `yyyy-MM-dd HH:mm:ss`.
    Time,
    List,
    Map,
}

use Kind::{Flag, Int, List, Number, Text, Time};

#[derive(Debug, Clone, Copy)]
struct Parameter {
    name: &'static str,
    kind: Kind,
    required: bool,
    /// As it is asked for where nothing is wrong, as JSON; `$…` is replaced by what the world has.
    value: &'static str,
}

const fn must(name: &'static str, kind: Kind, value: &'static str) -> Parameter {
    Parameter { name, kind, required: true, value }
}

const fn may(name: &'static str, kind: Kind, value: &'static str) -> Parameter {
    Parameter { name, kind, required: false, value }
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    dialect: &'static str,
    method: &'static str,
    /// `$…` is replaced by what the world has.
    path: &'static str,
    place: Place,
    parameters: &'static [Parameter],
}

const fn operation(
    dialect: &'static str,
    method: &'static str,
    path: &'static str,
    place: Place,
    parameters: &'static [Parameter],
) -> Operation {
    Operation { dialect, method, path, place, parameters }
}

const ID: [Parameter; 1] = [must("containerId", Text, "\"$uid\"")];
const NAME: [Parameter; 1] = [must("name", Text, "\"$deployment\"")];
const METHOD: Parameter = may("method", Text, "\"PARALLEL\"");
const UPDATE: Parameter = may("update", Flag, "false");
const START: Parameter = must("startDate", Time, "\"2026-01-01 00:00:00\"");
const END: Parameter = must("endDate", Time, "\"2026-01-02 00:00:00\"");
const IMAGE: Parameter = must("image", Text, "\"edge00\"");
/// Without it the answer is of all.
const ONE_IMAGE: Parameter = may("image", Text, "\"edge00\"");
const ONE_VERSION: Parameter = may("imageVersion", Text, "\"1\"");
const DEPLOYMENT: [Parameter; 10] = [
    must("uuid", Text, "\"$host\""),
    must("image", Text, "\"edge00\""),
    must("imageversion", Text, "\"1\""),
    must("deploymentname", Text, "\"$deployment\""),
    may("env", List, "[{\"key\": \"A\", \"value\": \"1\"}]"),
    may("volumes", List, "[]"),
    may("requestscpu", Number, "0"),
    may("requestsmemory", Number, "0"),
    may("limitscpu", Number, "0"),
    may("limitsmemory", Number, "0"),
];

/// The documents' operations in the documents' order, and the three more that the specification adds to them.
const OPERATIONS: &[Operation] = {
    use Place::{Batch, Json, Query};
    &[
        operation(
            "standalone",
            "POST",
            "/container/build",
            Json,
            &[
                must("image_name", Text, "\"static\""),
                must("code_address", Text, "\"http://example.invalid/a.zip\""),
                must("memory", Int, "64"),
            ],
        ),
        operation("standalone", "GET", "/container/start", Query, &ID),
        operation("standalone", "GET", "/container/stop", Query, &ID),
        operation("standalone", "GET", "/container/remove", Query, &ID),
        operation("standalone", "GET", "/container/analy", Query, &[]),
        operation("standalone", "GET", "/container/stats", Query, &ID),
        operation("acs", "GET", "/api/v1/container", Query, &[]),
        operation("acs", "GET", "/api/v1/container/$id", Query, &[]),
        operation("acs", "POST", "/api/v1/container/$id/start", Query, &[]),
        operation("acs", "POST", "/api/v1/container/$id/stop", Query, &[]),
        operation("acs", "DELETE", "/api/v1/container/$id", Query, &[]),
        operation("acs", "GET", "/api/v1/node", Query, &[]),
        operation("acs", "GET", "/api/v1/node/$node", Query, &[]),
        operation(
            "acs",
            "POST",
            "/api/v1/node/$node/uploadStart",
            Query,
            &[UPDATE, must("url", Text, "\"http://example.invalid/a.zip\""), METHOD],
        ),
        operation(
            "acs",
            "POST",
            "/api/v1/node/$node/historyStart",
            Query,
            &[UPDATE, must("version", Int, "\"1\""), METHOD],
        ),
        operation(
            "acs",
            "POST",
            "/api/v1/node/$node/start",
            Query,
            &[UPDATE, may("imageName", Text, "\"edge00\""), may("imageTag", Text, "\"1\""), METHOD],
        ),
        operation("acs", "POST", "/api/v1/node/$node/stop", Query, &[METHOD]),
        operation("acs", "DELETE", "/api/v1/node/$node", Query, &[]),
        operation("acs", "GET", "/api/v1/command", Query, &[]),
        operation("acs", "GET", "/api/v1/command/$command", Query, &[]),
        operation("comb", "GET", "/api/v1/containers/images", Query, &[]),
        operation(
            "comb",
            "POST",
            "/api/v1/containers",
            Json,
            &[
                must("charge_type", Int, "2"),
                must("spec_id", Int, "1"),
                must("image_type", Int, "2"),
                must("image_id", Int, "$image"),
                must("name", Text, "\"swept\""),
                may("desc", Text, "\"d\""),
                may("ssh_key_ids", List, "[]"),
                may("env_var", Kind::Map, "{\"A\": \"1\"}"),
                must("use_public_network", Int, "1"),
                must("network_charge_type", Int, "1"),
                must("bandwidth", Int, "10"),
            ],
        ),
        operation(
            "comb",
            "PUT",
            "/api/v1/containers/$planned",
            Json,
            &[
                may("charge_type", Int, "2"),
                may("desc", Text, "\"d\""),
                may("network_charge_type", Int, "1"),
                may("bandwidth", Int, "10"),
            ],
        ),
        operation("comb", "GET", "/api/v1/containers", Query, &[may("limit", Int, "20"), may("offset", Int, "0")]),
        operation("comb", "GET", "/api/v1/containers/$planned", Query, &[]),
        operation("comb", "DELETE", "/api/v1/containers/$planned", Query, &[]),
        operation("comb", "PUT", "/api/v1/containers/$planned/actions/restart", Query, &[]),
        operation(
            "comb",
            "POST",
            "/api/v1/containers/$planned/tag",
            Json,
            &[must("repo_name", Text, "\"swept\""), must("tag", Text, "\"1\"")],
        ),
        operation(
            "comb",
            "GET",
            "/api/v1/containers/$planned/flow",
            Query,
            &[may("from_time", Int, "0"), may("to_time", Int, "-1")],
        ),
        operation(
            "comb",
            "POST",
            "/api/v1/token",
            Json,
            &[must("app_key", Text, "\"nobody\""), must("app_secret", Text, "\"nothing\"")],
        ),
        operation("comb", "POST", "/api/v1/secret-keys", Json, &[may("key_name", Text, "\"swept\"")]),
        operation("comb", "GET", "/api/v1/secret-keys", Query, &[]),
        operation("comb", "GET", "/api/v1/secret-keys/$key", Query, &[]),
        operation("comb", "DELETE", "/api/v1/secret-keys/$key", Query, &[]),
        operation("tingyu", "GET", "/tingyu/task/status", Query, &[must("jobid", Text, "\"$job\"")]),
        operation("tingyu", "POST", "/tingyu/container/create", Batch, &DEPLOYMENT),
        operation("tingyu", "PUT", "/tingyu/container/updateByName", Batch, &DEPLOYMENT),
        operation(
            "tingyu",
            "PUT",
            "/tingyu/container/updateByInherit",
            Json,
            &[
                must("area", Text, "\"江苏\""),
                must("operator", Text, "\"移动\""),
                must("percent", Int, "100"),
                must("image", Text, "\"edge09\""),
                must("imageversion", Text, "\"2\""),
            ],
        ),
        operation(
            "tingyu",
            "POST",
            "/tingyu/container/inheritUpdate",
            Json,
            &[must("deploymentnames", Text, "\"$deployment\""), IMAGE, must("imageversion", Text, "\"1\"")],
        ),
        operation("tingyu", "POST", "/tingyu/container/get", Query, &NAME),
        operation("tingyu", "POST", "/tingyu/container/info", Query, &NAME),
        operation("tingyu", "POST", "/tingyu/container/list", Query, &[must("uuid", Text, "\"$host\"")]),
        operation("tingyu", "DELETE", "/tingyu/container/delete", Query, &NAME),
        operation("tingyu", "POST", "/tingyu/container/start", Query, &NAME),
        operation("tingyu", "POST", "/tingyu/container/stop", Query, &NAME),
        operation("tingyu", "POST", "/tingyu/container/restart", Query, &NAME),
        operation("tingyu", "DELETE", "/tingyu/image/deleteByImage", Query, &[must("image", Text, "\"none\"")]),
        operation(
            "tingyu",
            "DELETE",
            "/tingyu/image/deleteByImageVersion",
            Query,
            &[must("image", Text, "\"none\""), must("imageVersion", Text, "\"1\"")],
        ),
        operation("tingyu", "GET", "/tingyu/image/search", Query, &[may("wordKey", Text, "\"edge\"")]),
        operation(
            "tingyu",
            "POST",
            "/tingyu/image/uploadImage",
            Query,
            &[
                may("image_name", Text, "\"doc\""),
                must("image_url", Text, "\"http://example.invalid/a.tar\""),
                may("version", Text, "\"1\""),
                may("detail", Text, "\"d\""),
            ],
        ),
        operation("tingyu", "GET", "/tingyu/info/bandWith/getAllNode", Query, &[START, END]),
        operation("tingyu", "GET", "/tingyu/info/bandWith/getByImage", Query, &[START, END, ONE_IMAGE]),
        operation(
            "tingyu",
            "GET",
            "/tingyu/info/bandWith/getByImageVersion",
            Query,
            &[START, END, ONE_IMAGE, ONE_VERSION],
        ),
        operation("tingyu", "GET", "/tingyu/info/resourceUse/getByImage", Query, &[START, END, ONE_IMAGE]),
        operation(
            "tingyu",
            "GET",
            "/tingyu/info/resourceUse/getByImageVersion",
            Query,
            &[START, END, ONE_IMAGE, ONE_VERSION],
        ),
        operation("tingyu", "GET", "/tingyu/node/get", Query, &[must("name", Text, "\"host-1\"")]),
        operation("tingyu", "GET", "/tingyu/node/list", Query, &[]),
        operation(
            "tingyu",
            "POST",
            "/tingyu/file/downloadfile",
            Query,
            &[must("name", Text, "\"$deployment\""), must("filepath", Text, "\"/etc/x\"")],
        ),
        operation("tingyu", "POST", "/tingyu/file/getResponseByJobId", Query, &[must("jobId", Text, "\"$job\"")]),
    ]
};

/// How many operations each document has; the specification adds `GET /command` and `/command/{id}` to `acs`, and the token and
/// the keys to `comb`.
const DOCUMENTED: [(&str, usize); 4] = [("standalone", 6), ("acs", 12 + 2), ("comb", 9 + 5), ("tingyu", 25)];

/// What is sent instead of a value, as JSON.
const WRONG: &[&str] = &[
    "null",
    "true",
    "\"\"",
    "\" \"",
    "\"x\"",
    "-1",
    "0",
    "1.5",
    "1e300",
    "99999999999999999999999999",
    "-9223372036854775808",
    "9223372036854775807",
    "[]",
    "[[]]",
    "[null]",
    "[{}]",
    "[{\"key\": [], \"value\": {}}]",
    "{}",
    "{\"a\": {\"b\": []}}",
    "{\"\": null}",
    "{\"A=B\": \"1\"}",
    "\"a\\u0000b\"",
    "\"../../etc/passwd\"",
    "\"a,b,,c\"",
    "\"%00%zz\"",
    "\"'; DROP TABLE containers; --\"",
    "\"2026-13-45 99:99:99\"",
    "\"0000-00-00 00:00:00\"",
    "\"9999-12-31 23:59:59\"",
    "\"移动\"",
    "\"\u{202e}\u{1f600}\"",
];

/// What the operations are tried on: things of one account, and its token.
struct World {
    fleet: Fleet,
    /// What stands for `$…`.
    names: Map<String, Value>,
    stranger: String,
    wrong: std::sync::Mutex<Vec<String>>,
    /// Of answers that the dialects' OpenAPI documents describe, by operation and status.
    described: std::sync::Mutex<BTreeMap<(String, u16), Option<jsonschema::Validator>>>,
}

/// `/node/$node/{x}` and `/node/{id}/$y` are the same path.
fn bare(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with(['$', '{']) { "*" } else { part }).collect::<Vec<_>>().join("/")
}

/// An operation as its dialect's OpenAPI document has it, the path that it is of, and that document.
fn described(of: &Operation) -> (&'static Value, &'static Value, &'static Value) {
    let found = berth_api::dialect_documents().iter().find(|(name, _)| *name == of.dialect);
    let (_, document) = found.unwrap_or_else(|| panic!("{} is not described", of.dialect));
    let paths = document["paths"].as_object().expect("paths");
    let item = paths.iter().find(|(path, _)| bare(path) == bare(of.path)).map(|(_, item)| item);
    let operation = item.and_then(|item| Some((item.get(of.method.to_lowercase())?, item)));
    let (operation, item) = operation.unwrap_or_else(|| panic!("{} {} is not described", of.method, of.path));
    (operation, item, document)
}

/// What a `$ref` within the document leads to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
    reference.map_or(value, |pointer| document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is not there")))
}

impl World {
    async fn new() -> Self {
        let settings = Settings {
            disk_high_percent: 0,
            account_requests_per_s: 0,
            requests_per_s: 0,
            ready_time_ms: 1,
            soak_time_ms: 1,
            ..Settings::default()
        };
        let fleet = Fleet::new("sweep", 2, settings).await;
        let account = Some("stranger".to_owned());
        let made = fleet.core.identity().token_create(
            &fleet.caller,
            "sweep",
            Role::User,
            account,
            None,
            AccountChange::default(),
        );
        let stranger = made.await.expect("token").secret;
        let (wrong, described) = (std::sync::Mutex::default(), std::sync::Mutex::default());
        let mut world = Self { fleet, names: Map::new(), stranger, wrong, described };
        world.fill().await;
        world
    }

    async fn fill(&mut self) {
        let host = self.fleet.core.hosts().await.expect("hosts")[0].facts.id.clone();
        self.names.insert("host".into(), json!(format!("tingyu-{host}")));
        let made = self.fleet.native("POST", "/v1/containers", json!({"image": "edge00:1", "name": "plain"})).await;
        self.names.insert("uid".into(), made["id"].clone());
        self.names.insert("id".into(), made["number"].clone());
        self.fleet.native("POST", "/v1/services", json!({"name": "web"})).await;
        let spec = json!({"name": "prod", "spec": {"image": "edge01:1", "replicas": 1}});
        self.fleet.native("POST", "/v1/services/web/groups", spec).await;
        let groups = self.fleet.native("GET", "/v1/groups", Value::Null).await;
        self.names.insert("node".into(), groups["items"][0]["number"].clone());
        let started = self.fleet.native("POST", "/v1/services/web/groups/prod/start", json!({})).await;
        let command = started["id"].clone();
        self.names.insert("command".into(), command);
        self.names.insert("deployment".into(), json!("swept"));
        let image = self.fleet.json("GET", "/api/v1/containers/images", Value::Null).await;
        self.names.insert("image".into(), image["custom_images"][0]["id"].clone());
        let plan = json!({
            "charge_type": 2, "spec_id": 1, "image_type": 2, "image_id": self.names["image"], "name": "planned",
            "use_public_network": 0,
        });
        let planned = self.fleet.json("POST", "/api/v1/containers", plan).await;
        self.names.insert("planned".into(), planned["id"].clone());
        let key = self.fleet.json("POST", "/api/v1/secret-keys", json!({"key_name": "k", "key_type": "ed25519"})).await;
        self.names.insert("key".into(), key["id"].clone());
        let item =
            json!([{"uuid": self.names["host"], "image": "edge00", "imageversion": "1", "deploymentname": "swept"}]);
        let job = self.fleet.call("POST", "/container/create", item).await;
        self.names.insert("job".into(), job["data"][0]["jobid"].clone());
        self.fleet.settle().await;
        assert!(self.names.values().all(|value| !value.is_null()), "{:?}", self.names);
    }

    /// With what stands for `$…`.
    fn put_in(&self, text: &str, names: &Map<String, Value>) -> String {
        // Longer names first: `$image` is no `$i`.
        let mut all: Vec<_> = names.iter().collect();
        all.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        all.into_iter().fold(text.to_owned(), |text, (name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.replace(&format!("${name}"), &value)
        })
    }

    fn parameters(&self, of: &Operation) -> Map<String, Value> {
        let value = |p: &Parameter| serde_json::from_str(&self.put_in(p.value, &self.names)).expect(p.value);
        of.parameters.iter().map(|p| (p.name.to_owned(), value(p))).collect()
    }

    /// A request, with these parameters in their place.
    async fn ask(&self, token: &str, of: &Operation, path: &str, parameters: &Map<String, Value>) -> Answer {
        let answer = self.send(token, of, path, parameters).await;
        self.is_described(of, &answer);
        answer
    }

    /// Whether the dialect's OpenAPI document has the answer's status, and its body the form that is told there.
    fn is_described(&self, of: &Operation, answer: &Answer) {
        let name = format!("{} {}", of.method, of.path);
        let mut all = self.described.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let validator = all.entry((name.clone(), answer.status)).or_insert_with(|| {
            let (operation, _, document) = described(of);
            let response = operation["responses"].get(answer.status.to_string())?;
            let content = resolved(document, response)["content"].as_object();
            // An answer without a body, or one that is no JSON.
            let schema = content
                .map_or(&json!({"type": "null"}), |content| {
                    content.get("application/json").map_or(&Value::Bool(true), |content| &content["schema"])
                })
                .clone();
            let whole = json!({"allOf": [schema], "components": document["components"]});
            Some(jsonschema::draft202012::new(&whole).unwrap_or_else(|e| panic!("{name} {}: {e}", answer.status)))
        });
        self.expect(validator.is_some(), || format!("{name}: {} is not described: {}", answer.status, answer.text));
        if let Some(validator) = validator
            && let Err(error) = validator.validate(&answer.json)
        {
            let at = error.instance_path().to_string();
            self.expect(false, || {
                format!("{name} {}: not as described at {at}: {error}: {}", answer.status, answer.text)
            });
        }
    }

    async fn send(&self, token: &str, of: &Operation, path: &str, parameters: &Map<String, Value>) -> Answer {
        match of.place {
            Place::Query => {
                let pairs: Vec<String> =
                    parameters.iter().map(|(name, value)| format!("{name}={}", in_query(value))).collect();
                let path = if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) };
                self.fleet.send(Some(token), of.method, &path, Vec::new()).await
            }
            Place::Json => {
                self.fleet.send(Some(token), of.method, path, json!(parameters).to_string().into_bytes()).await
            }
            Place::Batch => {
                self.fleet.send(Some(token), of.method, path, json!([parameters]).to_string().into_bytes()).await
            }
        }
    }

    fn path(&self, of: &Operation) -> String {
        self.put_in(of.path, &self.names)
    }

    async fn mine(&self, of: &Operation, parameters: &Map<String, Value>) -> Answer {
        self.ask(&self.fleet.token, of, &self.path(of), parameters).await
    }
}

/// Percent-encoded for a query.
fn in_query(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What is wrong with an answer's form, if anything, and whether it is a failure.
fn form(dialect: &str, answer: &Answer) -> Result<bool, String> {
    let expect = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_owned()) };
    expect(answer.request_id.len() == 36, "no Request-Id")?;
    expect(answer.status < 500 || answer.status == 503, "an internal error")?;
    for leak in ["internal error", "5000007", "5000001", "panicked", "SELECT", "/tmp/", "secret.key", "RUST_BACKTRACE"]
    {
        expect(!answer.text.contains(leak), leak)?;
    }
    let json = &answer.json;
    match dialect {
        "standalone" => {
            let code = json["code"].as_i64().ok_or("no code")?;
            expect(json["result"].is_object() && code != 10004, "no result, or an internal error")?;
            expect(answer.status == if code == 10005 { 503 } else { 200 }, "the HTTP status")?;
            let failed = code != 0 || json["result"]["optionResult"] == 1;
            expect(failed == json["message"].as_str().is_some_and(|m| !m.is_empty()), "the message")?;
            Ok(failed)
        }
        "acs" => {
            let code = json["code"].as_str().ok_or("code is no text")?;
            expect(json["message"].is_string(), "the message")?;
            let failed = code != "0";
            expect(failed == json.get("data").is_none(), "data")?;
            expect(answer.status.to_string() == if failed { code } else { "200" }, "the HTTP status")?;
            Ok(failed)
        }
        "comb" => {
            if answer.status < 300 {
                return Ok(false);
            }
            let code = json["code"].as_u64().ok_or("no code")?;
            expect(code / 10_000 == u64::from(answer.status) && code.to_string().len() == 7, "the code")?;
            expect(json["message"].as_str().is_some_and(|m| !m.is_empty()), "the message")?;
            expect(json.as_object().map(Map::len) == Some(2), "more than code and message")?;
            Ok(true)
        }
        "tingyu" => {
            expect([200, 401, 404].contains(&answer.status), "the HTTP status")?;
            expect(json["msg"].is_string(), "msg")?;
            let coded = json["code"].as_str().is_some_and(|code| code.len() == 6 && code.starts_with("TY"));
            expect(coded || json["code"] == 200 || json["code"] == 500, "the code")?;
            let failed = json["code"] != 200;
            expect(!failed || json.get("data").is_none() && json.get("info").is_none(), "data of a failure")?;
            let items = json["data"].as_array().into_iter().flatten();
            Ok(failed || items.map(|item| &item["code"]).any(|code| code == 500))
        }
        other => Err(format!("dialect {other}")),
    }
}

impl World {
    /// Notes what is not as it should be; all of it is told at the end.
    fn expect(&self, good: bool, what: impl FnOnce() -> String) {
        if !good {
            let what: String = what().chars().take(400).collect();
            self.wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(what);
        }
    }

    /// Whether an answer is a failure; its form is checked.
    fn failed(&self, dialect: &str, answer: &Answer, story: &str) -> bool {
        let form = form(dialect, answer);
        self.expect(form.is_ok(), || format!("{story}: {form:?}: {} {}", answer.status, answer.text));
        form.unwrap_or(true)
    }
}

/// Whether a value can't be taken for a parameter of that kind. What may be taken, such as a number for a text, is not judged.
fn is_wrong(kind: Kind, value: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    let empty = |value: &Value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
    if empty(value) {
        // As good as not there.
        return false;
    }
    match kind {
        Text => value.is_array() || value.is_object() || value.is_boolean(),
        Int => number(value).is_none_or(|n| n.fract() != 0.0 || n.abs() > 9.3e18),
        Number => number(value).is_none_or(|n| n < 0.0),
        Flag => {
            !value.is_boolean()
                && !matches!(value.as_str(), Some("true" | "false" | "0" | "1"))
                && value != 0
                && value != 1
        }
        Time => true,
        List => !value.is_array(),
        Kind::Map => !value.is_object(),
    }
}

/// The operations are all that the documents have, none twice, and each is replayed by its dialect's suite.
#[test]
fn every_operation_of_the_documents_is_tested() {
    for (dialect, count) in DOCUMENTED {
        let of_it: BTreeSet<_> =
            OPERATIONS.iter().filter(|o| o.dialect == dialect).map(|o| (o.method, o.path)).collect();
        assert_eq!(of_it.len(), count, "{dialect}");
        let file = format!("{}/../berth/tests/{dialect}.rs", env!("CARGO_MANIFEST_DIR"));
        let suite = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (method, path) in of_it {
            let last = path.rsplit('/').find(|part| !part.starts_with('$')).expect("a part");
            assert!(suite.contains(last), "{method} {path} of {dialect} is not replayed: no {last:?} in {file}");
        }
    }
}

/// The names that an object of this schema has, or the objects of a list.
fn properties(document: &Value, schema: &Value, names: &mut BTreeSet<String>) {
    let schema = resolved(document, schema);
    names.extend(schema["properties"].as_object().into_iter().flat_map(Map::keys).cloned());
    if schema["items"].is_object() {
        properties(document, &schema["items"], names);
    }
    for word in ["oneOf", "anyOf", "allOf"] {
        schema[word].as_array().into_iter().flatten().for_each(|part| properties(document, part, names));
    }
}

/// The OpenAPI documents have these operations, with these parameters.
#[test]
fn every_operation_is_described() {
    for of in OPERATIONS {
        let (operation, item, document) = described(of);
        let listed = [&operation["parameters"], &item["parameters"]].into_iter().filter_map(Value::as_array).flatten();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for parameter in listed {
            names.extend(resolved(document, parameter)["name"].as_str().map(str::to_owned));
        }
        let body = resolved(document, &operation["requestBody"]);
        for content in body["content"].as_object().into_iter().flat_map(Map::values) {
            properties(document, &content["schema"], &mut names);
        }
        for parameter in of.parameters {
            assert!(names.contains(parameter.name), "{} {}: {} of {names:?}", of.method, of.path, parameter.name);
        }
    }
    for (dialect, count) in DOCUMENTED {
        let document = &berth_api::dialect_documents().iter().find(|(name, _)| *name == dialect).expect(dialect).1;
        let paths = document["paths"].as_object().expect("paths");
        let methods = ["get", "post", "put", "delete"];
        let operations = |item: &Value| methods.into_iter().filter(|method| item.get(method).is_some()).count();
        assert!(paths.values().map(operations).sum::<usize>() >= count, "{dialect}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_clients_get_wrong_is_answered_in_the_dialects_form() {
    let world = World::new().await;
    // What changes nothing goes first; what removes goes last.
    let mut all: Vec<&Operation> = OPERATIONS.iter().collect();
    all.sort_by_key(|o| (o.method == "DELETE" || o.path.ends_with("remove"), o.method != "GET"));
    for of in &all {
        wrong_methods(&world, of).await;
        strangers(&world, of).await;
        broken_bodies(&world, of).await;
        missing(&world, of).await;
        wrong_values(&world, of).await;
    }
    // All of that was nothing: what there was is there.
    world.fleet.settle().await;
    for path in
        ["/api/v1/container/$id", "/api/v1/node/$node", "/api/v1/containers/$planned", "/api/v1/secret-keys/$key"]
    {
        let answer =
            world.fleet.send(Some(&world.fleet.token), "GET", &world.put_in(path, &world.names), Vec::new()).await;
        world.expect(answer.status == 200, || format!("{path}: {}", answer.text));
    }
    // And each can be done.
    for of in &all {
        if matches!(of.path, "/container/build" | "/api/v1/token" | "/tingyu/image/uploadImage")
            || of.path.ends_with("uploadStart")
        {
            // Nothing to fetch, and nobody of that name.
            continue;
        }
        let answer = world.mine(of, &world.parameters(of)).await;
        world.failed(of.dialect, &answer, &format!("{} {}", of.method, of.path));
        world.fleet.settle().await;
    }
    let wrong = world.wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(wrong.is_empty(), "{} answers are not as they should be:\n{}", wrong.len(), wrong.join("\n"));
}

async fn wrong_methods(world: &World, of: &Operation) {
    let path = world.path(of);
    let taken: Vec<&str> = OPERATIONS.iter().filter(|o| o.path == of.path).map(|o| o.method).collect();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        // Questions may be asked by GET or POST, too, where a document has only the one.
        let asked = of.dialect == "tingyu" && ["GET", "POST"].contains(&method) && of.place == Place::Query;
        if taken.contains(&method) || asked {
            continue;
        }
        let story = format!("{method} {path}");
        let answer = world.fleet.send(Some(&world.fleet.token), method, &path, Vec::new()).await;
        world.expect(world.failed(of.dialect, &answer, &story), || format!("{story}: {}", answer.text));
    }
    // HEAD asks what GET would answer; where GET changes something there is none.
    if of.method == "GET" && ["/start", "/stop", "/remove"].iter().any(|end| of.path.ends_with(end)) {
        let container = format!("/v1/containers/{}", world.names["uid"].as_str().expect("uid"));
        let before = world.fleet.native("GET", &container, Value::Null).await;
        let asked = format!("{path}?containerId={}", world.names["uid"].as_str().expect("uid"));
        world.fleet.send(Some(&world.fleet.token), "HEAD", &asked, Vec::new()).await;
        let after = world.fleet.native("GET", &container, Value::Null).await;
        world.expect(before["state"] == after["state"], || format!("HEAD {asked}: {}", after["state"]));
    }
    for beside in
        [format!("{path}/"), format!("{path}/nothing"), format!("{path}x"), format!("{path}%00"), format!("{path}/..")]
    {
        let answer = world.fleet.send(Some(&world.fleet.token), of.method, &beside, Vec::new()).await;
        // A path that is like one of `acs` and is none of it belongs to `comb`.
        let like_acs =
            of.dialect == "acs" && of.path.matches('/').count() == 3 && !beside[path.len()..].starts_with('/');
        world.failed(if like_acs { "comb" } else { of.dialect }, &answer, &beside);
    }
}

/// Somebody without a credential, with a wrong one, another account, and ids that are nobody's.
async fn strangers(world: &World, of: &Operation) {
    let (path, parameters) = (world.path(of), world.parameters(of));
    if of.path != "/api/v1/token" {
        for token in [None, Some("nothing"), Some("")] {
            let answer = world.fleet.send(token, of.method, &path, json!(parameters).to_string().into_bytes()).await;
            world
                .expect(world.failed(of.dialect, &answer, &path), || format!("{path} with {token:?}: {}", answer.text));
            let refused = match of.dialect {
                "standalone" => answer.json["code"] == 10001,
                "tingyu" => answer.status == 401 && answer.json["code"] == "TY0001",
                _ => answer.status == 401,
            };
            world.expect(refused, || format!("{path} with {token:?}: {}", answer.text));
        }
    }
    let names_it = of.path.contains('$')
        || of.parameters.iter().any(|p| ["\"$uid\"", "\"$deployment\"", "\"$job\""].contains(&p.value));
    let makes_it = of.path.ends_with("/create");
    if !names_it || makes_it {
        return;
    }
    let nobody: Map<String, Value> = world
        .names
        .iter()
        .map(|(name, value)| (name.clone(), if value.is_number() { json!(987_654_321) } else { json!("nobodys-own") }))
        .chain([("host".to_owned(), world.names["host"].clone())])
        .collect();
    let unknown: Map<String, Value> = of
        .parameters
        .iter()
        .map(|p| (p.name.to_owned(), serde_json::from_str(&world.put_in(p.value, &nobody)).expect(p.value)))
        .collect();
    let others = world.ask(&world.stranger, of, &path, &parameters).await;
    let answer = world.ask(&world.stranger, of, &world.put_in(of.path, &nobody), &unknown).await;
    let story = format!("{} {path}", of.method);
    world.expect(world.failed(of.dialect, &others, &story) || all_not_found(&others), || {
        format!("{story} by a stranger: {}", others.text)
    });
    world.expect(world.failed(of.dialect, &answer, &story) || all_not_found(&answer), || {
        format!("{story} of nobody: {}", answer.text)
    });
    // What is another's is as unknown as what is nobody's.
    let same = |text: &str| {
        let uses = |name: &str| {
            of.path.contains(&format!("${name}")) || of.parameters.iter().any(|p| p.value == format!("\"${name}\""))
        };
        let used = world.names.iter().zip(nobody.values()).filter(|((name, _), _)| uses(name));
        used.fold(text.to_owned(), |text, ((_, mine), none)| {
            if mine.is_number() {
                return text.replace(|c: char| c.is_ascii_digit(), "");
            }
            text.replace(mine.as_str().unwrap_or_default(), "ID").replace(none.as_str().unwrap_or_default(), "ID")
        })
    };
    let (one, other) = ((others.status, same(&others.text)), (answer.status, same(&answer.text)));
    world.expect(one == other, || format!("{story}: {one:?}, not {other:?}"));
    for id in ["0", "-1", "abc", "99999999999999999999", "%00", "%FF", "1%2F2", "+", "1e3", "%E4%BD%A0"] {
        let Some(at) = of.path.split('/').position(|part| part.starts_with('$')) else { break };
        let path: Vec<&str> = path.split('/').enumerate().map(|(n, part)| if n == at { id } else { part }).collect();
        let answer = world.mine_at(of, &path.join("/"), &parameters).await;
        world.expect(world.failed(of.dialect, &answer, &path.join("/")), || {
            format!("{}: {}", path.join("/"), answer.text)
        });
    }
}

/// A list of jobs tells of each that it is not known.
fn all_not_found(answer: &Answer) -> bool {
    let items = answer.json["info"].as_array().or(answer.json["data"].as_array());
    items.is_some_and(|items| items.iter().all(|item| item["state"] == 4 || item["code"] == 500))
}

impl World {
    async fn mine_at(&self, of: &Operation, path: &str, parameters: &Map<String, Value>) -> Answer {
        self.ask(&self.fleet.token, of, path, parameters).await
    }
}

async fn broken_bodies(world: &World, of: &Operation) {
    if of.place == Place::Query {
        return;
    }
    let path = world.path(of);
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20)).into_bytes();
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let bodies: [&[u8]; 12] = [
        b"",
        b" ",
        b"{",
        b"[1",
        b"\"x\"",
        b"[1, 2]",
        b"null",
        b"\xff\xfe\x00",
        b"{\"a\": \"\xff\"}",
        b"<xml/>",
        &deep,
        &long,
    ];
    for body in bodies {
        let story = format!("{} {path} with {:?}", of.method, String::from_utf8_lossy(&body[..body.len().min(20)]));
        let answer = world.fleet.send(Some(&world.fleet.token), of.method, &path, body.to_vec()).await;
        let failed = world.failed(of.dialect, &answer, &story);
        // Every parameter of some operations may be left out.
        let may_be_empty = of.parameters.iter().all(|p| !p.required);
        world.expect(failed || may_be_empty && body.trim_ascii().is_empty(), || format!("{story}: {}", answer.text));
    }
}

async fn missing(world: &World, of: &Operation) {
    for parameter in of.parameters.iter().filter(|p| p.required) {
        let mut parameters = world.parameters(of);
        parameters.remove(parameter.name);
        let answer = world.mine(of, &parameters).await;
        let story = format!("{} {} without {}", of.method, of.path, parameter.name);
        world.expect(world.failed(of.dialect, &answer, &story), || format!("{story}: {}", answer.text));
        world.expect(answer.text.contains(parameter.name), || format!("{story} does not name it: {}", answer.text));
    }
}

async fn wrong_values(world: &World, of: &Operation) {
    let long = format!("\"{}\"", "n".repeat(20_000));
    for parameter in of.parameters {
        for wrong in WRONG.iter().copied().chain([long.as_str()]) {
            let value: Value = serde_json::from_str(wrong).unwrap_or_else(|e| panic!("{wrong}: {e}"));
            let mut parameters = world.parameters(of);
            parameters.insert(parameter.name.to_owned(), value.clone());
            let story = format!("{} {} with {} {}", of.method, of.path, parameter.name, &wrong[..wrong.len().min(60)]);
            let answer = world.mine(of, &parameters).await;
            let failed = world.failed(of.dialect, &answer, &story);
            // In a query all is text.
            let value = if of.place == Place::Query && !value.is_string() { json!(value.to_string()) } else { value };
            if is_wrong(parameter.kind, &value) {
                world.expect(failed, || format!("{story} is taken: {}", answer.text));
            }
            if failed && of.dialect != "tingyu" {
                // A client learns which of its parameters it was, unless it names what is not there.
                let named = answer.text.contains(parameter.name) || answer.text.contains("ssh key");
                let told = named || answer.status == 404 || answer.status == 401;
                world.expect(told || !is_wrong(parameter.kind, &value), || {
                    format!("{story} does not name it: {}", answer.text)
                });
            }
        }
    }
}
