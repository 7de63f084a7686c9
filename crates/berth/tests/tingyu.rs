//! The dialect `tingyu`, as its document shows it, with real containers.
#![expect(clippy::too_many_lines, reason = "a test tells one story")]

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_testkit::{Answer, Server, done, image, is_root, same_shape};
use serde_json::{Value, json};

/// Goes on, and heeds SIGTERM.
const LOOP: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

async fn plain(server: &Server, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Value {
    let answer: Answer = server.request(method, &format!("/tingyu{path}"), body).await;
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text);
    answer.json()
}

fn text(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}

/// A call that succeeds: the whole answer.
async fn call(server: &Server, method: &str, path: &str, body: Value) -> Value {
    let json = plain(server, method, path, text(&body)).await;
    assert_eq!(json["code"], 200, "{method} {path}: {json}");
    json
}

/// A call that fails as a whole, with this code and no data.
async fn refused(server: &Server, method: &str, path: &str, body: Value, code: &str) {
    let json = plain(server, method, path, text(&body)).await;
    same_shape(&json, &json!({"msg": "", "code": "TY0015"}), path);
    assert_eq!(json["code"], code, "{path}: {json}");
}

/// Follows a job to its end.
async fn job(server: &Server, id: &str) -> Value {
    let begun = Instant::now();
    loop {
        let found = call(server, "GET", &format!("/task/status?jobid={id}"), Value::Null).await["info"][0].clone();
        if found["state"].as_i64().is_some_and(|state| state >= 3) {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60) * berth_testkit::slow(), "{found}: {}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every item was accepted, and every job succeeds.
async fn all_done(server: &Server, answer: &Value) {
    for item in answer["data"].as_array().expect("items") {
        same_shape(item, &json!({"code": 200, "deploymentname": "", "message": "success", "jobid": ""}), "item");
        assert_eq!(item["code"], 200, "{item}");
        let end = job(server, item["jobid"].as_str().expect("a job")).await;
        assert_eq!(end["state"], 3, "{end}");
    }
}

async fn uuid(server: &Server) -> String {
    let nodes = call(server, "GET", "/node/list", Value::Null).await;
    nodes["data"][0]["uuid"].as_str().expect("a uuid").to_owned()
}

fn asked(uuid: &str, name: &str, version: &str) -> Value {
    json!({"uuid": uuid, "image": "app", "imageversion": version, "deploymentname": name,
        "env": [{"key": "port", "value": "6555"}], "volumes": [], "requestscpu": 0, "requestsmemory": 0,
        "limitscpu": 0.5, "limitsmemory": 64})
}

/// What deployments are of, by name.
async fn images(server: &Server, names: &[String]) -> Vec<String> {
    let found = call(server, "POST", &format!("/container/get?name={}", names.join(",")), Value::Null).await;
    let all = found["data"].as_array().expect("items").iter();
    all.map(|item| item["data"]["image"].as_str().expect("an image").to_owned()).collect()
}

/// An image whose command is this script.
fn commit(server: &Server, name: &str, script: &str) {
    done(server, &["create", "--name", "base", "busybox", "sh", "-c", script]);
    done(server, &["commit", "base", name]);
    done(server, &["rm", "-f", "base"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_operations_work_as_shown() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "tingyu", "").await;
    server.import(&rootfs, "busybox", &[]);
    commit(&server, "app:1", LOOP);
    done(&server, &["tag", "app:1", "app:2"]);
    let nobody = server.request_as(None, "GET", "/tingyu/node/list", "").await;
    assert_eq!((nobody.status, nobody.json()), (401, json!({"msg": "未登录或token无效", "code": "TY0001"})));

    let listed = call(&server, "GET", "/node/list", Value::Null).await;
    let example = json!({"area": "江苏省", "createtime": "", "memory": 32052, "address": "", "bandwith": 2000,
        "operatingsystem": "linux", "cpu": 24, "uuid": "", "operator": "移动", "kernelversion": "", "nodename": "",
        "eth": "[]", "systemos": "", "osimage": "", "diskinfo": "[]", "heartbeattime": "", "status": "Ready",
        "architecture": "amd64"});
    same_shape(&listed, &json!({"msg": "success", "code": 200, "data": [example]}), "nodes");
    let node = listed["data"][0].clone();
    assert_eq!(node["status"], "Ready", "{node}");
    let uuid = node["uuid"].as_str().expect("a uuid").to_owned();
    let digits = uuid.strip_prefix("tingyu-").expect("a beginning");
    assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{uuid}");
    for (field, shape) in
        [("eth", json!([{"Name": "", "IP": "", "Type": ""}])), ("diskinfo", json!([{"Name": "", "Size": 0, "Use": 0}]))]
    {
        let inner: Value = serde_json::from_str(node[field].as_str().expect("text")).expect("JSON in a string");
        same_shape(&inner, &shape, field);
    }
    let name = encoded(node["nodename"].as_str().expect("a name"));
    let one = call(&server, "GET", &format!("/node/get?name={name},nobody"), Value::Null).await;
    let example = json!({"area": "", "nodename": "", "bandwith": 1000, "eth": "", "operatingsystem": "", "osimage": "",
        "uuid": "", "diskinfo": "", "operator": "", "architecture": "", "kernelversion": ""});
    same_shape(&one, &json!({"msg": "success", "code": 200, "data": [example]}), "node");
    assert_eq!(one["data"].as_array().map(Vec::len), Some(1));
    // A batch: what is wrong fails alone, at once or as a job; a host that is nobody's fails all.
    let mut above = asked(&uuid, "above", "1");
    above["requestsmemory"] = json!(128);
    let mut huge = asked(&uuid, "huge", "1");
    (huge["requestsmemory"], huge["limitsmemory"]) = (json!(500_000_000), json!(0));
    let mut missing = asked(&uuid, "missing", "1");
    missing["image"] = json!("127.0.0.1:1/none");
    let batch = json!([asked(&uuid, "web", "1"), above, huge, missing, asked(&uuid, "second", "1")]);
    let made = call(&server, "POST", "/container/create", batch).await;
    let codes: Vec<_> = made["data"].as_array().expect("items").iter().map(|item| item["code"].clone()).collect();
    assert_eq!(codes, [200, 500, 500, 200, 200], "{made}");
    same_shape(&made["data"][1], &json!({"code": 500, "deploymentname": "", "message": ""}), "failed");
    for (index, state) in [(0, 3), (3, 4), (4, 3)] {
        let end = job(&server, made["data"][index]["jobid"].as_str().expect("a job")).await;
        assert_eq!((&end["state"], &end["deviceid"]), (&json!(state), &json!(uuid)), "{end}");
        if state == 3 {
            same_shape(&end, &json!({"deploymentname": "", "state": 3, "uuid": "", "deviceid": ""}), "task");
        } else {
            assert!(end["message"].as_str().is_some_and(|message| !message.is_empty()), "{end}");
        }
    }
    let wrong = json!([asked(&uuid, "third", "1"), asked("tingyu-0", "fourth", "1")]);
    refused(&server, "POST", "/container/create", wrong, "TY0015").await;
    refused(&server, "POST", "/container/list?uuid=tingyu-0", Value::Null, "TY0015").await;
    refused(&server, "GET", "/task/status?jobid=nothing", Value::Null, "TY0040").await;

    // Questions.
    let found = call(&server, "POST", "/container/get?name=web,nginx", Value::Null).await;
    let shown = json!({"image": "app:1", "restart": "Always", "name": "web", "volumes": [],
        "env": [{"value": "6555", "key": "port"}], "network": "host"});
    assert_eq!(found["data"][0], json!({"code": 200, "data": shown, "message": "success"}));
    let none = json!({"code": 500, "data": {"name": "nginx"}, "message": "deployments.apps \"nginx\" not found"});
    assert_eq!(found["data"][1], none);
    let info = call(&server, "POST", "/container/info?name=web", Value::Null).await;
    let state = json!({"createtime": "2021-06-13 19:27:58", "podinfo": [{"podname": "", "podstate": ""}],
        "deploymentname": "web"});
    let example = json!({"code": 200, "data": state, "message": "success"});
    same_shape(&info["data"], &json!([example]), "info");
    let pod = &info["data"][0]["data"]["podinfo"][0];
    assert_eq!(pod["podstate"], "Running", "{info}");
    assert!(pod["podname"].as_str().is_some_and(|name| name.starts_with("web-")), "{info}");
    let list = call(&server, "POST", &format!("/container/list?uuid={uuid}"), Value::Null).await;
    same_shape(&list["data"], &json!([shown]), "list");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "{list}");

    // Stop, start, restart: all or none.
    let podstate = async || {
        let info = call(&server, "POST", "/container/info?name=web", Value::Null).await;
        info["data"][0]["data"]["podinfo"][0]["podstate"].clone()
    };
    refused(&server, "POST", "/container/stop?name=web,nobody", Value::Null, "TY0010").await;
    assert_eq!(podstate().await, "Running");
    for (action, said) in [("stop", "停止成功!"), ("start", "启动成功!"), ("restart", "重启成功!")] {
        let answer = call(&server, "POST", &format!("/container/{action}?name=web,second"), Value::Null).await;
        assert_eq!(answer, json!({"msg": said, "code": 200}));
        assert_eq!(podstate().await == "Running", action != "stop", "{action}");
    }

    // Other versions.
    let updated = call(&server, "PUT", "/container/updateByName", json!([asked(&uuid, "web", "2")])).await;
    all_done(&server, &updated).await;
    let both = ["web".to_owned(), "second".to_owned()];
    assert_eq!(images(&server, &both).await, ["app:2", "app:1"]);
    let inherit = json!({"deploymentnames": "second,nobody", "image": "app", "imageversion": "2"});
    let inherited = call(&server, "POST", "/container/inheritUpdate", inherit).await;
    let failed = json!({"code": 500, "deploymentname": "nobody", "message": "Get Deploymentname Fail"});
    assert_eq!(inherited["data"][1], failed);
    all_done(&server, &json!({"data": [inherited["data"][0]]})).await;
    assert_eq!(images(&server, &both).await, ["app:2", "app:2"]);
    let operator = json!({"area": "a", "operator": "b", "percent": 1, "image": "app", "imageversion": "1"});
    refused(&server, "PUT", "/container/updateByInherit", operator, "TY0032").await;

    let gone = call(&server, "DELETE", "/container/delete?name=web,nobody", Value::Null).await;
    assert_eq!(gone["data"][1]["code"], 500, "{gone}");
    all_done(&server, &json!({"data": [gone["data"][0]]})).await;
    server.finish().await;
}

/// Waits until so many commands of this name are over: the newest.
async fn command(server: &Server, name: &str, count: usize) -> Value {
    let begun = Instant::now();
    loop {
        let all = server.request("GET", "/v1/commands?limit=1000", "").await.json();
        let items = all["items"].as_array().expect("items").iter();
        let over: Vec<&Value> = items.filter(|c| c["name"] == name && c["status"] == "done").collect();
        if over.len() == count {
            return over[0].clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{name}: {all}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_out_that_fails_is_undone() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let settings = "[core]\nrollout_batch_percent = 20\n";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "tingyu-roll", settings).await;
    server.import(&rootfs, "busybox", &[]);
    commit(&server, "app:1", LOOP);
    done(&server, &["tag", "app:1", "app:2"]);
    // Fails where a variable says so, so that some have moved when one does not.
    commit(&server, "app:3", &format!("test -z \"$FAIL\" || exit 1; {LOOP}"));
    commit(&server, "app:4", "exit 1");
    let hosts = server.request("GET", "/v1/hosts", "").await.json();
    let number = hosts["items"][0]["number"].to_string();
    done(&server, &["host", "label", &number, "--area", "江苏", "--operator", "移动", "--bandwidth", "1000"]);
    let uuid = uuid(&server).await;
    let names: Vec<String> = (0..10).map(|n| format!("d{n}")).collect();
    let batch: Vec<Value> = names.iter().map(|name| asked(&uuid, name, "1")).collect();
    all_done(&server, &call(&server, "POST", "/container/create", Value::Array(batch)).await).await;
    let roll = async |percent: u32, version: &str| {
        let body =
            json!({"area": "江苏", "operator": "移动", "percent": percent, "image": "app", "imageversion": version});
        let answer = call(&server, "PUT", "/container/updateByInherit", body).await;
        assert_eq!(answer, json!({"msg": "success", "code": 200, "data": null}));
    };
    let moved = async |version: &str| {
        let wanted = format!("app:{version}");
        let all = names.iter().zip(images(&server, &names).await);
        all.filter(|(_, image)| *image == wanted).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    roll(20, "2").await;
    assert_eq!(command(&server, "rollout", 1).await["result"], "success");
    let two = moved("2").await;
    assert_eq!(two.len(), 2);
    roll(50, "2").await;
    assert_eq!(command(&server, "rollout", 2).await["result"], "success");
    let five = moved("2").await;
    assert!(five.len() == 5 && two.iter().all(|name| five.contains(name)), "{two:?} {five:?}");

    // None is well: nothing has moved when it ends, and each runs what it ran.
    roll(20, "4").await;
    let failed = command(&server, "rollout", 3).await;
    assert_eq!(failed["result"], "failed", "{failed}");
    assert_eq!((moved("2").await, moved("4").await.len()), (five.clone(), 0));
    // One of the later five is not: those before it come back.
    let last = moved("1").await.pop().expect("one that has not moved");
    let mut other = asked(&uuid, &last, "1");
    other["env"] = json!([{"key": "FAIL", "value": "1"}]);
    all_done(&server, &call(&server, "PUT", "/container/updateByName", json!([other])).await).await;
    let before = images(&server, &names).await;
    roll(100, "3").await;
    let failed = command(&server, "rollout", 4).await;
    assert!(failed["result"] == "failed" && failed["message"].as_str().is_some_and(|m| m.contains(&last)), "{failed}");
    let undo = command(&server, "rollout_undo", 1).await;
    assert_eq!(undo["result"], "success", "{undo}");
    assert_eq!(images(&server, &names).await, before);
    for name in &names {
        let info = call(&server, "POST", &format!("/container/info?name={name}"), Value::Null).await;
        assert_eq!(info["data"][0]["data"]["podinfo"][0]["podstate"], "Running", "{info}\n{}", server.log());
    }
    let all = server.client().containers().await.expect("list");
    assert_eq!(all.len(), 10, "no predecessor or successor is left: {all:?}");
    server.finish().await;
}

/// A file that a job makes ready: what the job says at its end.
async fn file(server: &Server, name: &str, path: &str) -> Value {
    let path = format!("/file/downloadfile?name={name}&filepath={}", encoded(path));
    let begun = call(server, "POST", &path, Value::Null).await;
    same_shape(&begun, &json!({"msg": "success", "code": 200, "jobid": ""}), "downloadfile");
    let id = begun["jobid"].as_str().expect("a job").to_owned();
    job(server, &id).await;
    plain(server, "POST", &format!("/file/getResponseByJobId?jobId={id}"), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_taken_and_files_given() {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let settings = "[core]\ndownload_quota_mib = 4\n";
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "tingyu-files", settings).await;
    server.import(&rootfs, "busybox", &[]);
    commit(&server, "saved:1", LOOP);
    let path = server.data.join("saved.tar");
    done(&server, &["save", "-o", path.to_str().expect("a path"), "saved:1"]);
    let archive = std::fs::read(&path).expect("the archive");
    std::fs::remove_file(&path).expect("clean");
    let http = berth_testkit::http();
    // As the body, as a form, and what is none.
    let raw = plain(&server, "POST", "/image/uploadImage?image_name=app&version=1", archive.clone()).await;
    assert_eq!(raw["code"], 200, "{raw}");
    let form = async |file: &[u8]| {
        let mut body = b"--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.tar\"\r\n\
            Content-Type: application/x-tar\r\n\r\n"
            .to_vec();
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n--edge--\r\n");
        let url = server.url("/tingyu/image/uploadImage?image_name=app&version=2");
        let request = http.post(url).header("x-token", server.token());
        let request = request.header("content-type", "multipart/form-data; boundary=edge").body(body);
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let taken = form(&archive[..]).await;
    assert_eq!(taken["code"], 200, "{taken}");
    // Fields that come after the file count as those before it.
    let mut body = b"--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.tar\"\r\n\r\n".to_vec();
    body.extend_from_slice(&archive);
    for (field, value) in [("image_name", "afterwards"), ("version", "4")] {
        let part = format!("\r\n--edge\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}");
        body.extend_from_slice(part.as_bytes());
    }
    body.extend_from_slice(b"\r\n--edge--\r\n");
    let request = http.post(server.url("/tingyu/image/uploadImage")).header("x-token", server.token());
    let request = request.header("content-type", "multipart/form-data; boundary=edge").body(body);
    let taken: Value =
        serde_json::from_str(&request.send().await.expect("an answer").text().await.expect("text")).expect("JSON");
    assert_eq!(taken["code"], 200, "{taken}");
    assert_eq!(
        call(&server, "GET", "/image/search?wordKey=afterwards", Value::Null).await["data"],
        json!(["afterwards:4"])
    );
    let refusal = json!({"msg": "上传失败!请检查tar包是否是通过docker save保存!", "code": 500});
    assert_eq!(form(b"no archive".as_slice()).await, refusal);
    assert_eq!(plain(&server, "POST", "/image/uploadImage?image_name=app&version=3", vec![7_u8; 5000]).await, refusal);
    let found = call(&server, "GET", "/image/search?wordKey=app", Value::Null).await;
    assert_eq!(found["data"], json!(["app:1", "app:2"]), "{found}");

    let uuid = uuid(&server).await;
    all_done(&server, &call(&server, "POST", "/container/create", json!([asked(&uuid, "web", "1")])).await).await;
    for refused in ["deleteByImageVersion?image=app&imageVersion=1", "deleteByImage?image=app"] {
        let answer = plain(&server, "DELETE", &format!("/image/{refused}"), "").await;
        assert_eq!(answer["code"], 500, "{answer}");
    }
    call(&server, "DELETE", "/image/deleteByImageVersion?image=app&imageVersion=2", Value::Null).await;
    let found = call(&server, "GET", "/image/search?wordkey=app", Value::Null).await;
    assert_eq!(found["data"], json!(["app:1"]));
    refused(&server, "DELETE", "/image/deleteByImageVersion?image=app&imageVersion=2", Value::Null, "TY0020").await;

    // A file and a folder.
    done(&server, &["exec", "web", "sh", "-c", "mkdir -p /data/in; seq 1 20000 > /data/in/numbers"]);
    let wanted: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    let ready = file(&server, "web", "/data/in/numbers").await;
    let example = json!({"msg": "success", "code": 200, "state": 3, "size": 1, "sha256": "", "url": ""});
    same_shape(&ready, &example, "getResponseByJobId");
    assert_eq!((&ready["state"], &ready["size"]), (&json!(3), &json!(wanted.len())));
    let digest = berth_image::Digest::of(wanted.as_bytes()).hex();
    assert_eq!(ready["sha256"], json!(digest));
    // The address alone lets in.
    let url = ready["url"].as_str().expect("an address").to_owned();
    let whole = http.get(&url).send().await.expect("an answer");
    assert_eq!((whole.status().as_u16(), whole.text().await.expect("text")), (200, wanted.clone()));
    let part = http.get(&url).header("range", "bytes=100-199").send().await.expect("an answer");
    assert_eq!((part.status().as_u16(), part.text().await.expect("text")), (206, wanted[100..200].to_owned()));
    let folder = file(&server, "web", "/data").await;
    let tar = http.get(folder["url"].as_str().expect("an address")).send().await.expect("an answer");
    let tar = tar.bytes().await.expect("bytes");
    assert_eq!(json!(berth_image::Digest::of(&tar).hex()), folder["sha256"]);
    let mut tape = tar::Archive::new(&tar[..]);
    let entries = tape.entries().expect("entries").filter_map(Result::ok);
    let sizes: Vec<u64> =
        entries.filter(|e| e.path().is_ok_and(|p| p.ends_with("in/numbers"))).map(|e| e.size()).collect();
    assert_eq!(sizes, [wanted.len() as u64]);

    // Holes stay holes, the same file is made once, and an account has a quota.
    let kept = || {
        let files = std::fs::read_dir(server.data.join("downloads")).expect("downloads").flatten();
        let meta: Vec<_> = files.map(|file| file.metadata().expect("file")).collect();
        (meta.len(), meta.iter().map(|meta| std::os::unix::fs::MetadataExt::blocks(meta) * 512).sum::<u64>())
    };
    let (count, bytes) = kept();
    done(&server, &["exec", "web", "sh", "-c", "printf x | dd of=/data/sparse bs=1 seek=1073741824"]);
    let sparse = file(&server, "web", "/data/sparse").await;
    assert_eq!((&sparse["state"], sparse["size"].as_u64()), (&json!(3), Some((1 << 30) + 1)), "{sparse}");
    let again = file(&server, "web", "/data/sparse").await;
    assert_eq!(again["sha256"], sparse["sha256"]);
    assert_ne!(again["url"], sparse["url"], "each has an address of its own");
    let (more, now) = kept();
    assert!(more == count + 1 && now - bytes < 1 << 20, "{more} files, {count} before; {} bytes more", now - bytes);
    done(&server, &["exec", "web", "sh", "-c", "printf y | dd of=/data/sparse bs=1 seek=1000 conv=notrunc"]);
    let changed = file(&server, "web", "/data/sparse").await;
    assert_ne!(changed["sha256"], sparse["sha256"]);
    assert_eq!(kept().0, count + 2);
    done(&server, &["exec", "web", "dd", "if=/dev/urandom", "of=/data/large", "bs=1M", "count=5"]);
    let large = file(&server, "web", "/data/large").await;
    assert!(large["error"].as_str().is_some_and(|error| error.contains("4 MiB")), "{large}");
    assert_eq!(kept().0, count + 2, "nothing is left of it");
    done(&server, &["exec", "web", "rm", "/data/large", "/data/sparse"]);

    // Neither by dots nor by links does anything of the host's come out.
    let secret = std::env::temp_dir().join(format!("berth-tingyu-secret-{}", std::process::id()));
    std::fs::write(&secret, "of the host").expect("write");
    let outside = secret.to_str().expect("a path");
    let link = format!("ln -s ../../../../../..{outside} /data/out; ln -s / /data/root; ln -s /proc/1/root /data/proc");
    done(&server, &["exec", "web", "sh", "-c", &link]);
    for path in [
        format!("/etc/../../../..{outside}"),
        outside.to_owned(),
        "/data/out".to_owned(),
        format!("/data/root/../..{outside}"),
        format!("/data/proc{outside}"),
    ] {
        let answer = file(&server, "web", &path).await;
        same_shape(&answer, &json!({"msg": "", "code": 500, "error": ""}), &path);
        assert!(answer["error"].as_str().is_some_and(|e| e.starts_with("get file info fail")), "{path}: {answer}");
    }
    std::fs::remove_file(&secret).expect("clean");
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_adds_up() {
    const EACH: usize = 1_000_000;
    const STEPS: [i64; 2] = [300_000, 3_600_000];
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let settings = "[core]\nmeasure_period_s = 1\ntime_zone = \"UTC\"\n";
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "tingyu-sums", settings).await;
    server.import(&rootfs, "busybox", &[]);
    commit(&server, "app:1", LOOP);
    done(&server, &["tag", "app:1", "app:2"]);
    let uuid = uuid(&server).await;
    let batch = json!([asked(&uuid, "a", "1"), asked(&uuid, "b", "1"), asked(&uuid, "c", "2")]);
    all_done(&server, &call(&server, "POST", "/container/create", batch).await).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let taking = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.read_exact(&mut vec![0; EACH]).expect("all of it");
        }
    });
    let script = format!("head -c {EACH} /dev/zero | nc 127.0.0.1 {port}");
    for name in ["a", "b", "c"] {
        done(&server, &["exec", name, "sh", "-c", &script]);
    }
    taking.join().expect("everything came");
    let mut counted = [0, 0];
    for name in ["a", "b", "c"] {
        let traffic: Value = serde_json::from_str(&done(&server, &["traffic", "--json", name])).expect("json");
        counted[0] += traffic[0]["rx_bytes"].as_i64().expect("bytes");
        counted[1] += traffic[0]["tx_bytes"].as_i64().expect("bytes");
    }
    assert!(counted[1] >= 3 * EACH as i64, "{counted:?}: {}", server.log());

    // Has everything read now.
    done(&server, &["usage"]);
    // Five minutes are added up when they are over: here ahead of time, while the server is away.
    server.kill();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
    let until = (now() / 1_000_000 / STEPS[0] + 1) * STEPS[0];
    let store = berth_store::Store::open(&server.data.join("berth.db")).expect("the database");
    store.write(move |tx| tx.points_add_up(until, STEPS)).await.expect("added up");
    drop(store);
    server.up().await;

    // To the byte what the counters showed, whichever way it is added up.
    for (by, keys) in [("host", 1), ("image", 1), ("version", 2)] {
        let path = format!("/v1/bandwidth?by={by}&to={}", until / 1000);
        let found = server.request("GET", &path, "").await.json();
        let points = found["points"].as_array().expect("points");
        let sum = |name: &str| points.iter().filter_map(|p| p[name].as_i64()).sum::<i64>();
        assert_eq!([sum("rx_bytes"), sum("tx_bytes")], counted, "{by}: {found}");
        let names: std::collections::BTreeSet<_> = points.iter().filter_map(|p| p["key"].as_str()).collect();
        assert_eq!(names.len(), keys, "{found}");
        assert!(found["p95_mbit"].is_f64(), "{found}");
    }
    let time = |ns: i64| encoded(&berth_runtime::log::format_time(ns)[..19].replace('T', " "));
    let range = format!("startDate={}&endDate={}", time(now() - 86_400_000_000_000), time(until * 1_000_000));
    for (path, name, of) in [
        ("bandWith/getAllNode", "nodename", ""),
        ("bandWith/getByImage", "image", "&image=app"),
        ("bandWith/getByImageVersion", "imageversion", "&imageVersion=app%3A2"),
        ("resourceUse/getByImage", "image", "&image=app"),
        ("resourceUse/getByImageVersion", "imageversion", "&imageVersion=app%3A1"),
    ] {
        let found = call(&server, "GET", &format!("/info/{path}?{range}{of}"), Value::Null).await;
        let points = found["info"].as_array().expect("points");
        assert!(!points.is_empty(), "{path}: {found}");
        let numbers: &[&str] = if path.starts_with("band") { &["up", "down"] } else { &["cpu", "memory", "disk"] };
        for point in points {
            assert!(point["time"].is_string() && point[name].is_string(), "{path}: {point}");
            assert!(numbers.iter().all(|number| point[number].is_number()), "{path}: {point}");
        }
        assert_eq!(found["p95"].is_number(), path.starts_with("band"), "{path}: {found}");
        if path.ends_with("ByImage") && path.starts_with("band") {
            // In is down and out is up, and a Mbit is what it should be: to the last digit that is told.
            for (name, bytes) in [("down", counted[0]), ("up", counted[1])] {
                let mbit = points.iter().filter_map(|p| p[name].as_f64()).sum::<f64>();
                let told = mbit * 300.0 * 1e6 / 8.0;
                let step = 0.001 * 300.0 * 1e6 / 8.0 * points.len() as f64;
                assert!((told - bytes as f64).abs() <= step, "{name}: {told} told, {bytes} counted");
            }
        }
    }
    server.finish().await;
}

/// The host's network is a right of the account, with both runtimes; what its users run there can neither listen to what the
/// host says nor take its ports.
#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_is_a_right() {
    for runtime in ["", "runc"] {
        if runtime == "runc" && !berth_testkit::has_program("runc") {
            continue;
        }
        let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
        let settings = format!("[engine]\nruntime = \"{runtime}\"\n");
        let server = Server::start(env!("CARGO_BIN_EXE_berth"), &format!("right{runtime}"), &settings).await;
        server.import(&rootfs, "busybox", &[]);
        let token = done(&server, &["token", "create", "--account", "edge", "u"]).trim().to_owned();
        commit(&server, "app:1", LOOP);
        let shared = server.request("POST", "/v1/images/share?image=app:1&official=true", "").await;
        assert_eq!(shared.status, 200, "{}", shared.text);
        let uuid = uuid(&server).await;
        let order = async |operation: &str, names: &[&str]| {
            let items: Vec<Value> = names.iter().map(|name| asked(&uuid, name, "1")).collect();
            let path = format!("/tingyu/container/{operation}");
            let method = if operation == "create" { "POST" } else { "PUT" };
            server.request_as(Some(&token), method, &path, json!(items).to_string()).await.json()
        };
        let refused = "host network is not allowed for this account";
        let answer = order("create", &["one", "two"]).await;
        for item in answer["data"].as_array().expect("items") {
            assert_eq!((&item["code"], &item["message"]), (&json!(500), &json!(refused)), "{answer}");
        }
        let told = done(&server, &["account", "set", "edge", "--host-network", "yes"]);
        assert!(told.contains("edge") && told.contains("yes"), "{told}");
        let answer = order("create", &["one"]).await;
        assert_eq!(answer["data"][0]["code"], 200, "{answer}");
        let begun = Instant::now();
        let runs = async || {
            let list = server.request_as(Some(&token), "GET", "/v1/containers/one", "").await;
            list.json()["state"] == "running"
        };
        while !runs().await {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let exec = async |script: &str| {
            let body = json!({"command": ["sh", "-c", script]}).to_string();
            let answer = server.request_as(Some(&token), "POST", "/v1/containers/one/exec", body).await;
            answer.json()["stdout"].as_str().unwrap_or_default().to_owned()
        };
        // Docker's capabilities without NET_BIND_SERVICE (10) and NET_RAW (13).
        let own = exec("grep -hE 'CapEff|CapBnd' /proc/self/status /proc/1/status").await;
        assert_eq!(own.matches("00000000a80401fb").count(), 4, "{runtime}: {own}");
        let port = exec("nc -l -p 81 2>&1 & sleep 0.3; kill %1 2>/dev/null").await;
        assert!(port.contains("ermission denied"), "{runtime}: {port}");
        let (_, admins, _) =
            server.cli(&["run", "--rm", "--network", "host", "busybox", "grep", "CapEff", "/proc/self/status"]);
        assert!(admins.contains("00000000a80425fb"), "{admins}");

        done(&server, &["account", "set", "edge", "--host-network", "no"]);
        let answer = order("updateByName", &["one"]).await;
        assert_eq!(answer["data"][0]["message"], refused, "{answer}");
        let stopped = server.request_as(Some(&token), "POST", "/v1/containers/one/stop?timeout=0", "").await;
        assert_eq!(stopped.status, 200, "{}", stopped.text);
        let started = server.request_as(Some(&token), "POST", "/v1/containers/one/start", "").await;
        assert!(started.status == 403 && started.text.contains(refused), "{}", started.text);
        let removed = server.request_as(Some(&token), "DELETE", "/v1/containers/one?force=true", "").await;
        assert_eq!(removed.status, 204);
        for (path, body) in [("/v1/accounts", ""), ("/v1/accounts/edge", "{\"host_network\": true}")] {
            let method = if body.is_empty() { "GET" } else { "PATCH" };
            assert_eq!(server.request_as(Some(&token), method, path, body).await.status, 403);
        }
        server.finish().await;
    }
}
