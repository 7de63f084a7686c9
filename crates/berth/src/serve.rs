//! `berth serve`: settings, wiring, drain.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use berth_api::Draining;
use berth_core::{Administrator, Core, Paths};
use berth_engine::Engine;
use berth_engine_kube::KubeEngine;
use berth_engine_oci::{OciEngine, Options};
use berth_fetch::{Guard, HttpFetch, Registries};
use berth_image::Store as Images;
use berth_runtime::LogLimits;
use berth_store::Store;
use tokio::signal::unix::{SignalKind, signal};

use crate::connections::Reached;
use crate::service;
use crate::settings::{EngineKind, INSTANCE, Settings};

/// Keeps a second server from the same data. The lock goes with the process, however it ends.
pub(crate) fn take_lock(data: &Path) -> Result<fs::File, String> {
    use std::os::fd::AsRawFd;
    let path = data.join("lock");
    let file = fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| format!("{}: {e}", path.display()))?;
    // SAFETY: an open descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(format!("another berth serves from {}", data.display()));
    }
    // Whose it is, for whoever looks.
    let noted =
        file.set_len(0).and_then(|()| io::Write::write_all(&mut &file, format!("{}\n", std::process::id()).as_bytes()));
    noted.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(file)
}

/// Writes the administrator's credentials before they become valid, so that a crash in between loses nothing.
async fn administrator(core: &Core, data: &Path, dev: bool) -> Result<bool, String> {
    let path = data.join("admin.json");
    let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Administrator>(&bytes).ok());
    let first = known.is_none();
    let written = match known {
        Some(known) => known,
        None => {
            if core.identity().has_accounts().await.map_err(|e| e.chain())? {
                return Ok(false);
            }
            let made = Administrator::make();
            let text = serde_json::to_vec_pretty(&made).map_err(|e| e.to_string())?;
            crate::whole::write(&path, &text, 0o600).map_err(|e| format!("{}: {e}", path.display()))?;
            made
        }
    };
    let (access_key, secret_key) = (written.access_key.clone(), written.secret_key.clone());
    core.identity().administrator(written).await.map_err(|e| e.chain())?;
    core.identity().administrator_key(&access_key, &secret_key, dev).await.map_err(|e| e.chain())?;
    Ok(first)
}

/// SIGTERM or SIGINT, watched for from this call on: the caller waits for the first.
fn watch_for_end() -> Result<impl Future<Output = ()>, String> {
    let watch = |kind, name| signal(kind).map_err(|e| format!("watch for {name}: {e}"));
    let (mut term, mut int) = (watch(SignalKind::terminate(), "SIGTERM")?, watch(SignalKind::interrupt(), "SIGINT")?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// What runs the containers, and the networks that are its own.
async fn open_engine(
    settings: &Settings,
    data: &Path,
    images: Images,
) -> Result<(Arc<dyn Engine>, Vec<(std::net::Ipv4Addr, u8)>), String> {
    if settings.engine.kind == EngineKind::Kubernetes {
        let engine = KubeEngine::open(settings.kubernetes.options(data, settings.engine.ports_per_account)?)
            .await
            .map_err(|e| format!("start the engine: {e}"))?;
        return Ok((Arc::new(engine), Vec::new()));
    }
    if data.join(INSTANCE).exists() {
        return Err(format!("{} is a data folder of the engine kubernetes: start it with that", data.display()));
    }
    // Whatever becomes of the file: an upgrade may replace it at any moment.
    let program = Path::new("/proc/self/exe").to_owned();
    let options = Options {
        volumes: Some(data.join("volumes")),
        subnet: settings.engine.parsed_subnet()?,
        dns: settings.engine.dns.clone(),
        log: LogLimits { max_size: settings.engine.log_max_size, max_files: settings.engine.log_max_files },
        starts_at_once: settings.engine.starts_at_once,
        ports_of_tenant: settings.engine.ports_per_account,
        memory_reserve: settings.engine.memory_reserve_mib << 20,
        runtime: settings.engine.runtime_program()?,
        favor_dynamic_modifications: settings.engine.favor_dynamic_modifications,
        ..Options::new(data.join("engine"), program)
    };
    let engine = OciEngine::open(options, images).map_err(|e| format!("start the engine: {e}"))?;
    let subnet = engine.subnet();
    Ok((Arc::new(engine), vec![subnet]))
}

/// Database, images, engine and core of a data folder.
async fn open_core(settings: &Settings, data: &Path) -> Result<(Core, Registries), String> {
    let database = data.join("berth.db");
    let store = Store::open(&database).map_err(|e| chain(&e))?;
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).map_err(|e| e.to_string())?;
    let reserve = settings.images.disk_reserve_mib << 20;
    let images = Images::open(&data.join("images"), reserve).map_err(|e| chain(&e))?;
    let (engine, own_networks) = open_engine(settings, data, images.clone()).await?;
    let paths = Paths {
        volumes: data.join("volumes"),
        packages: data.join("packages"),
        downloads: data.join("downloads"),
        distribution: data.join("registry"),
        secret_key: data.join("secret.key"),
    };
    // Containers' own addresses are nothing that a client may have the server go to.
    let guard = Guard::new(own_networks);
    let registries = Registries::new(settings.registries.clone(), guard.clone());
    let fetch = Arc::new(HttpFetch::new(guard));
    let registry = Arc::new(registries.clone());
    let core = Core::open(store, engine, images, fetch, registry, paths, of_core(settings)).await;
    Ok((core.map_err(|e| e.chain())?, registries))
}

/// The core's settings, with what only the dialects know.
pub(crate) fn of_core(settings: &Settings) -> berth_core::Settings {
    berth_core::Settings {
        operators: berth_api::OPERATORS.map(str::to_owned).to_vec(),
        dialects: berth_api::DIALECTS_OF_KEYS.map(str::to_owned).to_vec(),
        ..settings.core.clone()
    }
}

/// The data folder, its owner's alone.
fn data_folder(path: &Path) -> Result<std::path::PathBuf, String> {
    let named = |e: io::Error| format!("{}: {e}", path.display());
    fs::create_dir_all(path).map_err(named)?;
    let data = fs::canonicalize(path).map_err(named)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).map_err(named)?;
    Ok(data)
}

async fn listen(settings: &Settings) -> Result<tokio::net::TcpListener, String> {
    let address = settings.listen;
    if settings.dev && !address.ip().is_loopback() {
        return Err(format!("--dev takes requests without a signature: only for a loopback listener, not {address}"));
    }
    tokio::net::TcpListener::bind(address).await.map_err(|e| format!("listen on {address}: {e}"))
}

/// Writes down what is only in memory.
async fn last_words(core: &Core) {
    // What is on disk now is told again by the next server.
    match tokio::time::timeout(Duration::from_secs(5), core.sample()).await {
        Ok(Err(error)) => tracing::error!(error = error.chain(), "traffic could not be read at the end"),
        Err(_) => tracing::error!("traffic was not read in time at the end"),
        Ok(Ok(())) => {}
    }
    if let Err(error) = core.identity().audit_flush().await {
        tracing::error!(error = error.chain(), "repeated failures could not be counted in the audit log");
    }
}

/// What is wrong before anything is begun.
fn can_serve(settings: &Settings) -> Result<(), String> {
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        let what =
            "berth serve needs root (namespaces, cgroups, network): run it with sudo, or as a service (berth install)";
        return Err(what.into());
    }
    let faults = settings.faults();
    if !faults.is_empty() {
        return Err(format!("the settings are wrong: {}", faults.join("; ")));
    }
    Ok(())
}

/// Runs until SIGTERM or SIGINT. Containers go on. `load` reads the settings again, at SIGHUP.
pub(crate) async fn serve(
    settings: Settings,
    log: crate::log::Log,
    load: impl Fn() -> Result<Settings, String>,
) -> Result<(), String> {
    can_serve(&settings)?;
    // From now on: what is told to reload while it comes up must not end.
    let hangups = signal(SignalKind::hangup()).map_err(|e| format!("watch for SIGHUP: {e}"))?;
    let data = &data_folder(&settings.data_dir)?;
    let _lock = take_lock(data)?;
    if let Err(error) = berth_runtime::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let listener = listen(&settings).await?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let secure = crate::tls::Listener::open(&settings.https).await?;
    if let Some(secure) = &secure {
        tracing::info!(address = %secure.address(), "TLS");
    }

    let (core, registries) = open_core(&settings, data).await?;
    let first = administrator(&core, data, settings.dev).await?;
    // Before anybody can know that it serves, and tell it to end.
    let ended = watch_for_end()?;
    berth_ssh::begin(core.clone()).await.map_err(|e| e.chain())?;
    let draining = Draining::default();
    let doctor = berth_api::Doctor(crate::doctor::examine);
    let served = berth_api::Settings { dialects: settings.dialects, comb: settings.comb, doctor };
    let router = berth_api::router(core.clone(), draining.clone(), served);
    let socket = crate::local::path(data);
    let local = crate::local::Listener::open(data).map_err(|e| format!("listen on {}: {e}", socket.display()))?;
    let administrators = match settings.socket.of(data) {
        Some(path) => Some(crate::local::Listener::of_administrators(&path, &settings.socket.group)?),
        None => None,
    };
    // Where the CLI finds this server, when it is given the folder.
    let places = serde_json::json!({ "url": format!("http://{}", reachable(address)), "socket": &socket });
    fs::write(data.join("server.json"), format!("{places}\n")).map_err(|e| format!("write server.json: {e}"))?;
    greet(reachable(address), data, first, settings.dev, settings.core.port_range);

    let status = format!("serves on http://{}", reachable(address));
    let reloads = crate::reload::Reloads {
        core: core.clone(),
        registries,
        certificate: secure.as_ref().map(crate::tls::Listener::certificate),
        log,
        status: status.clone(),
    };

    let going = draining.clone();
    // Without it an answer's last part waits until the client has acknowledged the part before, and is lost when the
    // connection is closed with unread input meanwhile.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let bounds = settings.http;
    let last = core.clone();
    let connections = crate::connections::Connections::new(bounds);
    let server = crate::connections::serve(
        listener,
        router.clone(),
        draining.clone(),
        bounds,
        Some(connections.clone()),
        |io| anybody(base_of("http", io.local_addr(), address)),
    );
    let watched = core.clone();
    let goes = async move {
        ended.await;
        tracing::info!("going: requests under way are finished, containers run on");
        service::notify::stopping();
        going.begin();
        core.close();
    };
    let limit = Duration::from_secs(settings.drain_s);
    let late = async {
        draining.begun().await;
        tokio::time::sleep(limit).await;
    };
    let all = async {
        let secure = async {
            let Some(listener) = secure else { return };
            let own = listener.address();
            crate::connections::serve(listener, router.clone(), draining.clone(), bounds, Some(connections), |io| {
                anybody(base_of("https", io.get_ref().0.local_addr(), own))
            })
            .await;
        };
        let local = crate::connections::serve(local, router.clone(), draining.clone(), bounds, None, |_| {
            anybody(base_of("http", Ok(address), address))
        });
        let administrators = async {
            let Some(listener) = administrators else { return };
            crate::connections::serve(listener, router.clone(), draining.clone(), bounds, None, |io| Reached {
                base: base_of("http", Ok(address), address),
                // Who it is can't be told: no rights then, but to show a token.
                administrator: io.peer_cred().ok().map(|peer| peer.uid()),
            })
            .await;
        };
        tokio::join!(server, secure, local, administrators, goes);
        last_words(&last).await;
    };
    service::notify::ready(&status);
    tokio::select! {
        () = all => Ok(()),
        () = reloads.follow(hangups, settings, load) => Ok(()),
        () = service::notify::watchdog(&watched) => Ok(()),
        () = late => {
            tracing::warn!("some requests did not end in {} s", limit.as_secs());
            Ok(())
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// A connection that says by a token whose it is.
fn anybody(base: String) -> Reached {
    Reached { base, administrator: None }
}

/// The server as a connection reaches it.
fn base_of(scheme: &str, local: io::Result<SocketAddr>, listens: SocketAddr) -> String {
    let local = local.unwrap_or(listens);
    format!("{scheme}://{}", reachable(SocketAddr::new(local.ip().to_canonical(), local.port())))
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// What a person needs next: a line to paste, and where to look then.
fn greet(address: SocketAddr, data: &Path, first: bool, dev: bool, (first_port, last_port): (u16, u16)) {
    let admin = data.join("admin.json");
    tracing::info!(%address, data = %data.display(), "ready");
    // Not into a journal: the line holds the token.
    if !io::stdout().is_terminal() && std::env::var_os("BERTH_GREETING").is_none() {
        return;
    }
    let known = fs::read(&admin).ok().and_then(|bytes| serde_json::from_slice::<Administrator>(&bytes).ok());
    let Some(token) = known.map(|known| known.token) else { return };
    let base = format!("http://{address}");
    let made = if first { "made now, " } else { "" };
    let free = |port: &u16| std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    let port = (first_port..=last_port).find(free).unwrap_or(first_port);
    println!("\nberth serves on {base}: the console is at {base}/, the API's documentation at {base}/docs/");
    println!("The administrator's credentials ({made}readable by root only) are in {}", admin.display());
    if dev {
        println!("Development: the administrator's access key is taken without a signature (dialect acs)");
    }
    println!("\nThis line builds a container from the zip of a web page:\n");
    println!(
        "curl -sS -X POST {base}/container/build -H 'X-Token: {token}' -d image_name=static -d memory=64 -d code_address={base}/samples/hello.zip"
    );
    println!("\nand then the page is at http://{}:{port}/ (the port is in the answer)", address.ip());
    let _ = io::stdout().flush();
}
