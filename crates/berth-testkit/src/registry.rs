//! Debian's `docker-registry` on loopback, and a proxy in front of it that misbehaves as told.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::free_port;

/// Whether a program is there. Says that a test is skipped if not.
pub fn has_program(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).exists()));
    if !found {
        crate::skip(&format!("{name} is not installed; `make test` installs it on Debian"));
    }
    found
}

/// A registry with a folder of its own; ends when dropped.
#[derive(Debug)]
pub struct TestRegistry {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl TestRegistry {
    /// Starts it below `folder`; with `login` (user, password) it wants to know who asks. `None` if it is not installed.
    pub async fn start(folder: &Path, login: Option<(&str, &str)>) -> Option<Self> {
        if !has_program("docker-registry") || (login.is_some() && !has_program("htpasswd")) {
            return None;
        }
        let folder = folder.join("registry");
        std::fs::create_dir_all(&folder).expect("make a folder");
        let port = free_port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n",
            folder.join("data").display()
        );
        if let Some((user, password)) = login {
            let output = Command::new("htpasswd").args(["-Bbn", user, password]).output().expect("htpasswd");
            std::fs::write(folder.join("users"), output.stdout).expect("write users");
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", folder.join("users").display());
        }
        let path = folder.join("config.yml");
        std::fs::write(&path, config).expect("write a configuration");
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start docker-registry");
        let registry = Self { child, folder, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            let log = || std::fs::read_to_string(registry.folder.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(20), "docker-registry does not answer: {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(registry)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a proxy does to what comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Each connection ends after so many bytes.
    Drop(u64),
    /// Each connection says nothing more after so many bytes.
    Stall(u64),
    /// One byte of each connection, at this place, is another one.
    Corrupt(u64),
    /// One byte of every so many is another one.
    CorruptEvery(u64),
    /// Connections are refused.
    Refuse,
}

/// A proxy that misbehaves on its first connections that carry much, and not any more when it has done so often enough.
#[derive(Debug, Clone)]
pub struct Proxy {
    port: u16,
    fault: Arc<Mutex<(Fault, usize)>>,
    /// Connections of before are closed.
    changed: tokio::sync::watch::Sender<()>,
    done: Arc<AtomicUsize>,
    carried: Arc<AtomicU64>,
}

impl Proxy {
    /// In front of `to`.
    pub async fn start(to: &str) -> Self {
        let to: SocketAddr = to.parse().expect("an address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let proxy = Self {
            port: listener.local_addr().expect("address").port(),
            fault: Arc::new(Mutex::new((Fault::None, 0))),
            changed: tokio::sync::watch::Sender::new(()),
            done: Arc::default(),
            carried: Arc::default(),
        };
        let own = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = own.clone();
                tokio::spawn(async move {
                    let mut changed = proxy.changed.subscribe();
                    tokio::select! {
                        () = proxy.carry(client, to) => {}
                        _ = changed.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    /// Does this from now on, `times` times.
    pub fn inject_fault(&self, fault: Fault, times: usize) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = (fault, times);
        self.done.store(0, Ordering::SeqCst);
        self.changed.send_replace(());
    }

    /// How often it did.
    pub fn misdeeds(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    /// Bytes that came back through it.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Takes one of the misdeeds that are left.
    fn take_fault(&self) -> bool {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.1 == 0 {
            return false;
        }
        fault.1 -= 1;
        self.done.fetch_add(1, Ordering::SeqCst);
        true
    }

    async fn carry(&self, client: TcpStream, to: SocketAddr) {
        let kind = self.fault.lock().unwrap_or_else(PoisonError::into_inner).0;
        if kind == Fault::Refuse && self.take_fault() {
            return;
        }
        let Ok(server) = TcpStream::connect(to).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        });
        let mut buffer = vec![0; 16 * 1024];
        let mut passed = 0u64;
        loop {
            let Ok(length) = from_server.read(&mut buffer).await else { return };
            if length == 0 {
                return;
            }
            let mut end = length;
            let at = match kind {
                Fault::Drop(at) | Fault::Stall(at) | Fault::Corrupt(at) => at,
                Fault::CorruptEvery(every) => passed.next_multiple_of(every).max(every),
                Fault::None | Fault::Refuse => u64::MAX,
            };
            if passed <= at && at < passed + length as u64 && self.take_fault() {
                let place = (at - passed) as usize;
                match kind {
                    Fault::Corrupt(_) | Fault::CorruptEvery(_) => buffer[place] ^= 0x55,
                    _ => end = place,
                }
            }
            self.carried.fetch_add(end as u64, Ordering::SeqCst);
            if to_client.write_all(&buffer[..end]).await.is_err() {
                return;
            }
            if end < length {
                if matches!(kind, Fault::Stall(_)) {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                return;
            }
            passed += length as u64;
        }
    }
}
