//! berth: a container manager in one program.
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    reason = "doc comments of arguments are the help texts: [=N] is no link, and an address stands as it is"
)]

mod cli;
mod connections;
mod doctor;
mod heads;
mod init_process;
mod local;
mod log;
mod reload;
mod serve;
mod service;
mod settings;
mod static_server;
mod tls;
mod whole;

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a zygote has one thread, and stays so.
    berth_runtime::zygote_main();
    // rustls leaves the choice of its cryptography to the program; the call fails only if it was made already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    cli::run()
}
