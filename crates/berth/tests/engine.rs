//! The embedded engine holds to the contract, with real containers.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use berth_engine::contract::{Material, check};
use berth_engine_oci::{OciEngine, Options, uninstall};
use berth_image::{Budget, Config, Store, import_rootfs};
use berth_testkit::{image, is_root, leftovers};

fn words(text: &str) -> Vec<String> {
    ["sh", "-c", text].map(str::to_owned).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_engine_holds_to_the_contract() {
    hold_to_the_contract("own", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_holds_to_the_contract_with_other_runtimes() {
    for name in ["runc", "crun"] {
        let places = ["/usr/bin", "/usr/sbin"].map(|folder| PathBuf::from(folder).join(name));
        let Some(program) = places.into_iter().find(|p| p.exists()) else {
            println!("skipped: {name} is not installed");
            continue;
        };
        if name == "crun" && hybrid_cgroups() {
            println!("skipped: crun refuses hosts whose cgroups are of both versions");
            continue;
        }
        hold_to_the_contract(name, Some(program)).await;
    }
}

fn hybrid_cgroups() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    mounts.contains(" - cgroup cgroup ")
}

async fn hold_to_the_contract(name: &str, runtime: Option<PathBuf>) {
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let data = std::env::temp_dir().join(format!("berth-contract-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&data);
    let store = Store::open(&data.join("images"), 0).expect("store");
    let imported =
        import_rootfs(&store, Cursor::new(fs::read(rootfs).expect("image")), Config::default(), Budget::default())
            .expect("import");
    let mut options = Options::new(data.join("engine"), PathBuf::from(env!("CARGO_BIN_EXE_berth")));
    options.runtime = runtime;
    let engine = OciEngine::open(options, store).expect("engine");
    let free = |port: u16| std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).is_ok();
    let first = if name == "own" { 31_000 } else { 31_500 };
    let port = (first..first + 500).find(|port| (*port..port + 5).all(free)).expect("free ports");
    let material = Material {
        layers: imported.layers.iter().map(ToString::to_string).collect(),
        service: words("trap 'exit 0' TERM; while true; do sleep 1 & wait; done"),
        greeter: words("echo hello"),
        failer: words("exit 7"),
        missing: vec!["no-such-program".into()],
        ports: (port, port + 1),
    };
    check(&engine, &material).await;
    drop(engine);
    uninstall(&data.join("engine")).expect("uninstall");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let left: Vec<String> = leftovers(&data).into_iter().filter(|l| !l.starts_with("trash")).collect();
    assert_eq!(left, Vec::<String>::new());
    fs::remove_dir_all(data).expect("clean");
}
