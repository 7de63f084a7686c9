//! Makes the console's bundle, if it was built, a part of the program: a table of its files, each compressed by gzip.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../console/dist");
    println!("cargo:rerun-if-changed=build.rs");
    if dist.is_dir() {
        println!("cargo:rerun-if-changed={}", dist.display());
    }
    let index = dist.join("index.html");
    let mut table = String::from("pub(super) const INDEX: Option<&str> = ");
    let mut files: Vec<_> = Vec::new();
    if index.is_file() {
        let _ = writeln!(table, "Some(include_str!({:?}));", fs::canonicalize(&index)?);
        for entry in fs::read_dir(dist.join("assets"))? {
            files.push(fs::canonicalize(entry?.path())?);
        }
        files.sort();
    } else {
        table.push_str("None;\n");
    }
    table.push_str("pub(super) const FILES: &[(&str, &[u8])] = &[\n");
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".gz"));
        if let Some(name) = name {
            let _ = writeln!(table, "    ({name:?}, include_bytes!({path:?})),");
        }
    }
    table.push_str("];\n");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(Path::new(&out).join("console.rs"), table)
}
