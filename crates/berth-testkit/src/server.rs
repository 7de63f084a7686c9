//! `berth serve` as a process of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_client::Client;

use crate::leftovers;

/// Says that a test is skipped, and why.
///
/// # Panics
/// With `BERTH_TESTS_REQUIRE_ALL` in the environment: there a test that is skipped has failed.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("BERTH_TESTS_REQUIRE_ALL").is_none(), "a test can't run: {reason}");
    println!("skipped: {reason}");
}

/// Whether this process may do what a server does. Says that a test is skipped if not.
pub fn is_root() -> bool {
    // SAFETY: plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        crate::skip("needs root");
    }
    root
}

/// The root file system of a test image made by `tests/images/mkroot.sh`, if `make test` has made it.
pub fn image(name: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let folder =
        std::env::var_os("BERTH_TEST_IMAGES").map_or_else(|| workspace.join("target/test-images"), PathBuf::from);
    let path = folder.join(format!("{name}.tar"));
    if path.exists() {
        return Some(path);
    }
    crate::skip(&format!("{} is missing; `make test` makes it from Debian packages", path.display()));
    None
}

/// A port that nobody listens on, and that stays so until it is used: neither one that the kernel gives to connections, nor
/// one that servers give to containers.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    const FIRST: u32 = 30_001;
    const COUNT: u32 = 2767;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Test programs that run side by side begin at places of their own.
        let number = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + number % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// What a plain HTTP request was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub kind: String,
    /// `Request-Id`.
    pub request_id: String,
    /// Body.
    pub text: String,
}

impl Answer {
    /// The body as JSON; panics, with the body, if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e} in {:?}", self.text))
    }
}

/// A server with a data folder of its own.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    /// Its data folder.
    pub data: PathBuf,
    port: u16,
    child: Option<Child>,
    environment: Vec<(&'static str, String)>,
    http: reqwest::Client,
}

/// How many times slower this machine is than those that the tests' time limits are made for (`BERTH_TEST_SLOW`): an emulated one is.
pub fn slow() -> u32 {
    std::env::var("BERTH_TEST_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// An HTTP client that works on a host without certificate authorities, too.
pub fn http() -> reqwest::Client {
    let builder = berth_tls::builder(Vec::new()).expect("no certificates of its own");
    // Tests look for English words; without this the dialect `standalone` says Chinese ones.
    let english = reqwest::header::HeaderMap::from_iter([(
        reqwest::header::ACCEPT_LANGUAGE,
        reqwest::header::HeaderValue::from_static("en"),
    )]);
    builder.default_headers(english).no_proxy().build().expect("an HTTP client")
}

impl Server {
    /// Starts `program`; `name` must be the test's own. `settings` is the text of a settings file.
    pub async fn start(program: &str, name: &str, settings: &str) -> Self {
        Self::start_with(program, name, settings, &[]).await
    }

    /// The same with more variables in its environment.
    pub async fn start_with(program: &str, name: &str, settings: &str, environment: &[(&'static str, String)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let data = std::env::temp_dir().join(format!("berth-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data).expect("make the data folder");
        fs::write(data.join("berth.toml"), with_own_ports(&with_short_times(settings))).expect("write the settings");
        let port = free_port();
        let http = http();
        let environment = environment.to_vec();
        let mut server = Self { program: program.into(), data, port, child: None, environment, http };
        server.up().await;
        server
    }

    /// Starts it (again) and waits until it answers; how long that took.
    pub async fn up(&mut self) -> Duration {
        let begun = Instant::now();
        let log =
            fs::File::options().create(true).append(true).open(self.data.join("server.log")).expect("open the log");
        let child = Command::new(&self.program)
            .arg("--data-dir")
            .arg(&self.data)
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.port), "--config"])
            .arg(self.data.join("berth.toml"))
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start the server");
        self.child = Some(child);
        while begun.elapsed() < Duration::from_secs(20) * slow() {
            if self.http.get(self.url("/healthz")).send().await.is_ok_and(|r| r.status().is_success()) {
                return begun.elapsed();
            }
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the server does not answer:\n{}", self.log());
    }

    /// What the server wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.join("server.log")).unwrap_or_default()
    }

    /// An address at this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The administrator's token.
    pub fn token(&self) -> String {
        let bytes = fs::read(self.data.join("admin.json")).expect("admin.json");
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("admin.json");
        json["token"].as_str().expect("a token").to_owned()
    }

    /// A client with the administrator's token.
    pub fn client(&self) -> Client {
        Client::new(&self.url(""), &self.token()).expect("a client")
    }

    /// A plain request with the administrator's token.
    pub async fn request(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.request_as(Some(&self.token()), method, path, body).await
    }

    /// A plain request with this token, or none.
    pub async fn request_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, self.url(path)).body(body);
        if let Some(token) = token {
            request = request.header("x-token", token);
        }
        let response = request.send().await.unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.log()));
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let (status, kind, request_id) = (response.status().as_u16(), header("content-type"), header("request-id"));
        Answer { status, kind, request_id, text: response.text().await.expect("a body") }
    }

    /// The CLI against this server: exit code, stdout, stderr.
    pub fn cli(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(&self.program)
            .env("BERTH_DATA_DIR", &self.data)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("run the CLI");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// The CLI with this on its standard input, which stays open until the CLI has ended: exit code, stdout, stderr.
    pub fn cli_with(&self, args: &[&str], input: &[u8]) -> (i32, String, String) {
        use std::io::Write;
        let mut child = Command::new(&self.program)
            .env("BERTH_DATA_DIR", &self.data)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run the CLI");
        let mut stdin = child.stdin.take().expect("stdin");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("wait for the CLI");
        writer.join().expect("write");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: plain system call, for a child that was not waited for.
        let sent = unsafe { libc::kill(self.pid().cast_signed(), signal) };
        assert_eq!(sent, 0, "signal {signal}: {}", std::io::Error::last_os_error());
    }

    /// A user's token of an account, which is made if it is new.
    pub async fn tenant(&self, account: &str) -> String {
        let asked = serde_json::json!({"name": account, "account": account}).to_string();
        let made = self.request("POST", "/v1/tokens", asked).await;
        made.json()["token"].as_str().expect("a token").to_owned()
    }

    /// Imports a test image under a name.
    pub fn import(&self, rootfs: &Path, name: &str, env: &[&str]) {
        let path = rootfs.to_str().expect("a path").to_owned();
        let mut args = vec!["import", "--cmd", "sh"];
        for variable in env {
            args.extend(["--env", variable]);
        }
        args.extend([path.as_str(), name]);
        let (code, _, error) = self.cli(&args);
        assert_eq!(code, 0, "import {name}: {error}");
    }

    /// `kill -9`, in the middle of whatever it does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// SIGTERM, and its end.
    pub fn terminate(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SAFETY: plain system call on a child that was not waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            let status = child.wait().expect("wait");
            assert!(status.success(), "the server ended with {status}:\n{}", self.log());
        }
    }

    /// Removes every container, ends the server, takes its things out of the kernel, and checks that nothing is left.
    pub async fn finish(mut self) {
        let client = self.client();
        for container in client.containers().await.expect("list") {
            client.container_remove(&container.id, true).await.expect("remove");
        }
        self.terminate();
        assert!(!self.log().contains("panicked"), "{}", self.log());
        berth_engine_oci::uninstall(&self.data.join("engine")).expect("uninstall");
        // Folders of removed containers are deleted in the background, and by the next start.
        let _ = fs::remove_dir_all(self.data.join("engine/trash"));
        let left = leftovers(&self.data);
        assert!(left.is_empty(), "left behind: {left:#?}");
        fs::remove_dir_all(&self.data).expect("remove the data folder");
    }
}

/// A command that works: what it prints.
pub fn done(server: &Server, args: &[&str]) -> String {
    let (code, out, error) = server.cli(args);
    assert_eq!(code, 0, "{args:?}: {error}");
    out
}

impl Drop for Server {
    /// A test that failed leaves no processes behind: what runs is killed, what is in the kernel taken out.
    fn drop(&mut self) {
        if self.child.is_none() && !self.data.exists() {
            return;
        }
        self.kill();
        for entry in fs::read_dir(self.data.join("engine/units")).into_iter().flatten().flatten() {
            if let Some(init) = berth_runtime::Process::load(&entry.path().join("init.json")).and_then(|p| p.open()) {
                let _ = init.signal(libc::SIGKILL);
                init.wait(Duration::from_secs(5));
            }
        }
        let _ = berth_engine_oci::uninstall(&self.data.join("engine"));
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// Times that a test waits out again and again are short, unless the test sets them itself.
/// With a range of host ports of its own: servers of tests that run side by side choose at the same time, and what one has chosen
/// is held a moment later only.
fn with_own_ports(settings: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    const FIRST: u32 = 10_000;
    const EACH: u32 = 200;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if settings.contains("port_range") {
        return settings.to_owned();
    }
    let number = std::process::id().wrapping_mul(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 99;
    let (first, last) = (FIRST + number * EACH, FIRST + (number + 1) * EACH - 1);
    settings.replacen("[core]\n", &format!("[core]\nport_range = [{first}, {last}]\n"), 1)
}

fn with_short_times(settings: &str) -> String {
    if settings.contains("ready_time_ms") {
        return settings.to_owned();
    }
    let times = "[core]\nready_time_ms = 500\nsoak_time_ms = 300\nattended_ms = 2000\n";
    match settings.split_once("[core]\n") {
        Some((before, after)) => format!("{before}{times}{after}"),
        None => format!("{settings}\n{times}"),
    }
}
