//! `berth static-server`: serves files, inside a container of the runtime `static`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tower_http::services::ServeDir;

/// Serves `root` on `port` until it is told to stop.
pub(crate) fn run(root: PathBuf, port: u16) -> Result<(), String> {
    // One thread: the program shares its memory with every other container's.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("start: {e}"))?;
    // An application with a public folder keeps the rest of its files to itself.
    let public = root.join("public");
    let root = if public.is_dir() && !root.join("index.html").exists() { public } else { root };
    runtime.block_on(async {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| format!("listen on {address}: {e}"))?;
        println!("serving {} on port {port}", root.display());
        let router = axum::Router::new().fallback_service(ServeDir::new(root));
        let server = axum::serve(listener, router);
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|e| format!("watch for SIGTERM: {e}"))?;
        tokio::select! {
            result = server.into_future() => result.map_err(|e| e.to_string()),
            _ = term.recv() => Ok(()),
        }
    })
}
