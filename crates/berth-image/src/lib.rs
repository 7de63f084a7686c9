//! Images on disk: layers unpacked once, kept by the digest of their content, and the archives they come in.
//!
//! A layer is a folder in overlayfs' own form (whiteouts are character devices 0:0, opaque folders carry
//! `trusted.overlay.opaque`), so that a container's root is mounted from it with no copy. Everything is unpacked beside
//! the store and renamed into it when it is complete and its digest is right: an interrupted import leaves nothing.
//!
//! Absent on purpose: names, accounts and reference counts. Who uses which layer is the caller's knowledge; it says so in
//! [`Store::retain`], and holds a [`Pin`] for what it has not written down yet.
//!
//! Beside a layer's tree is kept what is needed to write its tar again byte for byte (`tar_split`): a digest that was pulled is the one that
//! is pushed. A commit freezes the container, reads overlayfs' upper layer (whiteouts, opaque folders, moved folders) and keeps it as a
//! layer.

mod archive;
mod builder;
mod code;
mod config;
mod digest;
mod error;
mod export;
mod pack;
mod platform;
mod store;
mod tar_split;
mod tree;
mod unpack;

pub use archive::{Imported, import_archive, import_rootfs};
pub use berth_runtime::log::format_time as rfc3339;
pub use berth_runtime::remove_tree;
pub use builder::{Budget, LayerBuilder};
pub use code::{LayerFile, layer_of_files, unpack_code, unpack_zip};
pub use config::{Config, Health, ImageConfig, architecture};
pub use digest::{ContentDigest, Digest};
pub use error::Error;
pub use export::{
    Commit, NamedImage, Outgoing, OutgoingLayer, commit, copy_folder, finish_copy, import_config, import_layer,
    prepare_commit, write_archive,
};
pub use pack::{copy_file, disk_percent, disk_usage, is_in_memory, pack_difference, pack_path};
pub use platform::rank_of_variant;
pub use store::{Layer, Pin, Store};
pub use tree::{Stat, clear_folder, list_folder, open_file, stat};
pub use unpack::{Keep, unpack_within};
