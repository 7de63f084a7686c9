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
    let Some(rootfs) = image("busybox").filter(|_| is_root()) else { return };
    let data = std::env::temp_dir().join(format!("berth-contract-{}", std::process::id()));
    let _ = fs::remove_dir_all(&data);
    let store = Store::open(&data.join("images"), 0).expect("store");
    let imported =
        import_rootfs(&store, Cursor::new(fs::read(rootfs).expect("image")), Config::default(), Budget::default())
            .expect("import");
    let options = Options::new(data.join("engine"), PathBuf::from(env!("CARGO_BIN_EXE_berth")));
    let engine = OciEngine::open(options, store).expect("engine");
    let free = |port: u16| std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).is_ok();
    let port = (31_000..32_000).find(|port| free(*port) && free(port + 1)).expect("two free ports");
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
