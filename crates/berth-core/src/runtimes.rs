//! How an application is started: by what lies in its folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Field};

/// Where an application's code is inside its container.
pub(crate) const APP: &str = "/app";
/// Where berth's own program is, for the runtime that needs nothing else.
pub(crate) const PROGRAM: &str = "/.berth/berth";

/// A runtime that applications are built for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// How the entry point is found.
    pub kind: RuntimeKind,
    /// The image the code is put into; empty for `static`.
    #[serde(default)]
    pub image: String,
    /// The port that the application listens on inside; told to it as `PORT`.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Started by `/bin/sh -c`, whatever lies in the folder; the kind's rules if empty.
    #[serde(default)]
    pub command: String,
}

fn default_port() -> u16 {
    8080
}

/// How the entry point of an application is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// Files, served by berth itself.
    Static,
    /// `app.py`, `main.py`, `wsgi.py`.
    Python,
    /// `npm start`, `server.js`, `index.js`, `app.js`.
    Node,
    /// A Linux binary, or source to build.
    Go,
    /// The built-in web server on `public/` or the root.
    Php,
    /// A runnable jar, or a war.
    Java,
}

pub(crate) fn defaults() -> BTreeMap<String, Runtime> {
    let runtime =
        |kind, image: &str| Runtime { kind, image: image.into(), port: default_port(), command: String::new() };
    BTreeMap::from([
        ("static".into(), runtime(RuntimeKind::Static, "")),
        ("python2.7".into(), runtime(RuntimeKind::Python, "docker.io/library/python:2.7")),
        ("python3.5".into(), runtime(RuntimeKind::Python, "docker.io/library/python:3.5")),
        ("nodejs4".into(), runtime(RuntimeKind::Node, "docker.io/library/node:4")),
        ("go1.5".into(), runtime(RuntimeKind::Go, "docker.io/library/golang:1.5")),
        ("php5.6".into(), runtime(RuntimeKind::Php, "docker.io/library/php:5.6-cli")),
        ("java8".into(), runtime(RuntimeKind::Java, "docker.io/library/tomcat:9-jre8")),
    ])
}

fn is_file(folder: &Path, name: &str) -> bool {
    fs::symlink_metadata(folder.join(name)).is_ok_and(|m| m.is_file())
}

/// Text of a small regular file of the application; links are not followed out of its folder by the host.
fn text(folder: &Path, name: &str) -> Option<String> {
    let path = folder.join(name);
    let metadata = fs::symlink_metadata(&path).ok()?;
    if !metadata.is_file() || metadata.len() > 1 << 20 {
        return None;
    }
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_file()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl Runtime {
    /// The command that starts the application in `folder` (the code, on the host): a line for `/bin/sh -c`, or for
    /// `static` the program itself.
    pub(crate) fn start(&self, folder: &Path) -> Result<Vec<String>, Error> {
        let shell = |line: String| Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), line]);
        if !self.command.is_empty() {
            return shell(self.command.clone());
        }
        let web = text(folder, "Procfile")
            .and_then(|t| t.lines().find_map(|l| l.strip_prefix("web:").map(|l| l.trim().to_owned())))
            .filter(|line| !line.is_empty());
        if self.kind == RuntimeKind::Static {
            return Ok([PROGRAM, "static-server", "--root", APP, "--port", &self.port.to_string()]
                .map(str::to_owned)
                .to_vec());
        }
        let install = self.install(folder);
        let line = match web {
            Some(line) => line,
            None => match self.kind {
                RuntimeKind::Static => String::new(),
                RuntimeKind::Python => python(folder)?,
                RuntimeKind::Node => node(folder)?,
                RuntimeKind::Go => go(folder)?,
                RuntimeKind::Php => {
                    let root = if folder.join("public").is_dir() { "public" } else { "." };
                    format!("exec php -S 0.0.0.0:$PORT -t {root}")
                }
                RuntimeKind::Java => java(folder)?,
            },
        };
        shell(format!("{install}{line}"))
    }

    /// What has to be installed before the start, in the container.
    fn install(&self, folder: &Path) -> String {
        match self.kind {
            RuntimeKind::Python if is_file(folder, "requirements.txt") => {
                "python -m pip install -q --no-cache-dir -r requirements.txt || exit 1; ".into()
            }
            RuntimeKind::Node if needs_npm(folder) => "npm install --production --silent || exit 1; ".into(),
            _ => String::new(),
        }
    }
}

fn nothing(kind: &str, wanted: &str) -> Error {
    Error::invalid(
        Field::Code,
        format!("the archive holds no {kind} application: {wanted}, or a Procfile with a web: line"),
    )
}

fn python(folder: &Path) -> Result<String, Error> {
    for name in ["app.py", "main.py"] {
        if is_file(folder, name) {
            return Ok(format!("exec python {name}"));
        }
    }
    if is_file(folder, "wsgi.py") {
        let serve = "import os, wsgi; from wsgiref.simple_server import make_server; \
            make_server(\"0.0.0.0\", int(os.environ[\"PORT\"]), getattr(wsgi, \"application\", None) or wsgi.app).serve_forever()";
        return Ok(format!("exec python -c '{serve}'"));
    }
    Err(nothing("Python", "expected app.py, main.py or wsgi.py"))
}

fn package(folder: &Path) -> serde_json::Value {
    text(folder, "package.json").and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default()
}

fn needs_npm(folder: &Path) -> bool {
    let wanted = package(folder)["dependencies"].as_object().is_some_and(|d| !d.is_empty());
    wanted && !folder.join("node_modules").is_dir()
}

fn node(folder: &Path) -> Result<String, Error> {
    if package(folder)["scripts"]["start"].is_string() {
        return Ok("exec npm start".into());
    }
    for name in ["server.js", "index.js", "app.js"] {
        if is_file(folder, name) {
            return Ok(format!("exec node {name}"));
        }
    }
    Err(nothing("Node", "expected package.json with a start script, server.js, index.js or app.js"))
}

fn go(folder: &Path) -> Result<String, Error> {
    let is_binary = |name: &String| {
        use std::io::Read;
        let mut magic = [0; 4];
        fs::File::open(folder.join(name)).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
    };
    let all = names(folder);
    let binaries: Vec<&String> = all.iter().filter(|name| is_binary(name)).collect();
    let chosen = ["main", "app", "server"].iter().find_map(|n| binaries.iter().find(|b| b.as_str() == *n));
    if let Some(name) = chosen.or(if binaries.len() == 1 { binaries.first() } else { None }) {
        // Archives made on Windows lose the mode.
        return Ok(format!("chmod +x ./{0} && exec ./{0}", quoted(name)));
    }
    if all.iter().any(|name| name.ends_with(".go")) {
        let files = if is_file(folder, "go.mod") { "." } else { "*.go" };
        return Ok(format!("go build -o /tmp/app {files} && exec /tmp/app"));
    }
    Err(nothing("Go", "expected one Linux binary (or one named main, app or server), or .go files in the root"))
}

fn java(folder: &Path) -> Result<String, Error> {
    let all = names(folder);
    let first = |ending: &str| all.iter().find(|name| name.ends_with(ending));
    if let Some(jar) = first(".jar") {
        return Ok(format!("exec java -jar {}", quoted(jar)));
    }
    if let Some(war) = first(".war") {
        let war = quoted(war);
        // Tomcat where the image has it; otherwise the war has to run by itself, as Spring Boot's do.
        return Ok(format!(
            "if [ -d \"$CATALINA_HOME/webapps\" ]; then rm -rf \"$CATALINA_HOME/webapps/ROOT\"; \
             cp {war} \"$CATALINA_HOME/webapps/ROOT.war\"; \
             sed -i \"s/port=\\\"8080\\\"/port=\\\"$PORT\\\"/\" \"$CATALINA_HOME/conf/server.xml\"; \
             exec \"$CATALINA_HOME/bin/catalina.sh\" run; fi; exec java -jar {war} --server.port=$PORT"
        ));
    }
    Err(nothing("Java", "expected a .jar or a .war in the root"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{RuntimeKind, defaults};

    fn started(kind: RuntimeKind, files: &[(&str, &[u8])]) -> Result<String, String> {
        let folder =
            std::env::temp_dir().join(format!("berth-runtime-{}-{}", std::process::id(), berth_types::random_hex(4)));
        fs::create_dir_all(folder.join("public")).expect("folder");
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).expect("write");
        }
        let runtime = defaults().into_values().find(|r| r.kind == kind).expect("runtime");
        let result =
            runtime.start(&folder).map(|args| args.last().cloned().unwrap_or_default()).map_err(|e| e.to_string());
        fs::remove_dir_all(folder).expect("clean");
        result
    }

    #[test]
    fn a_procfile_comes_first_then_the_runtimes_convention() {
        use RuntimeKind::{Go, Java, Node, Php, Python};
        assert_eq!(started(Python, &[("Procfile", b"worker: x\nweb: run me\n"), ("app.py", b"")]), Ok("run me".into()));
        assert_eq!(started(Python, &[("main.py", b"")]), Ok("exec python main.py".into()));
        let installed = started(Python, &[("app.py", b""), ("requirements.txt", b"flask")]).expect("starts");
        assert!(installed.contains("pip install") && installed.ends_with("exec python app.py"));
        assert_eq!(started(Node, &[("package.json", br#"{"scripts":{"start":"x"}}"#)]), Ok("exec npm start".into()));
        assert_eq!(started(Node, &[("index.js", b"")]), Ok("exec node index.js".into()));
        assert!(started(Go, &[("x", b"\x7fELF...")]).is_ok_and(|l| l.ends_with("exec ./'x'")));
        assert!(started(Go, &[("m.go", b"package main")]).is_ok_and(|l| l.contains("go build")));
        assert!(started(Php, &[]).is_ok_and(|l| l.ends_with("-t public")));
        assert!(started(Java, &[("a b.jar", b"")]).is_ok_and(|l| l == "exec java -jar 'a b.jar'"));
        for kind in [Python, Node, Go, Java] {
            assert!(started(kind, &[("readme", b"")]).is_err_and(|e| e.contains("Procfile")));
        }
    }
}
