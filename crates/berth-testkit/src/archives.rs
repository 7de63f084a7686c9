//! Image archives that are built in the test: whatever layers it wants, in whatever order.

use std::io::Write;

use sha2::Digest;

/// One entry of a tar: name, kind, link target, mode, content.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Path in the archive.
    pub name: &'a str,
    /// What it is.
    pub kind: tar::EntryType,
    /// Target of a link.
    pub link: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Content of a file.
    pub content: &'a [u8],
}

/// A file of mode 0644.
pub fn file<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry { name, kind: tar::EntryType::Regular, link: "", mode: 0o644, content }
}

/// A folder of mode 0755.
pub fn folder(name: &str) -> Entry<'_> {
    Entry { name, kind: tar::EntryType::Directory, link: "", mode: 0o755, content: b"" }
}

/// A symbolic link.
pub fn link<'a>(name: &'a str, to: &'a str) -> Entry<'a> {
    Entry { name, kind: tar::EntryType::Symlink, link: to, mode: 0o777, content: b"" }
}

/// A hard link.
pub fn hard_link<'a>(name: &'a str, to: &'a str) -> Entry<'a> {
    Entry { name, kind: tar::EntryType::Link, link: to, mode: 0o644, content: b"" }
}

/// A tar of these entries, in this order, owned by root, with time 0.
pub fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_size(entry.content.len() as u64);
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if entry.link.is_empty() {
            tar.append_data(&mut header, entry.name, entry.content).expect("append an entry");
        } else {
            tar.append_link(&mut header, entry.name, entry.link).expect("append a link");
        }
    }
    tar.into_inner().expect("finish the tar")
}

/// `sha256:` and the digest.
pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An archive as `docker save` writes it: uncompressed layers, lowest first, a configuration with this command, one name.
pub fn docker_archive(layers: &[&[u8]], command: &[&str], name: &str) -> Vec<u8> {
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| digest_of(layer)).collect::<Vec<_>>() },
    })
    .to_string();
    docker_archive_with(layers, config.as_bytes(), name)
}

/// The same with a configuration of the test's own.
pub fn docker_archive_with(layers: &[&[u8]], config: &[u8], name: &str) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": names }]).to_string();
    let mut entries = vec![file("config.json", config), file("manifest.json", manifest.as_bytes())];
    entries.extend(names.iter().zip(layers).map(|(name, layer)| file(name, layer)));
    tar_of(&entries)
}

/// Writes a file into the server's data folder, for a command line to name; its path.
pub fn kept(server: &crate::Server, name: &str, bytes: &[u8]) -> String {
    let path = server.data.join(name);
    std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("write a file");
    path.to_str().expect("a path").to_owned()
}
