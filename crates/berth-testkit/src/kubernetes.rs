//! A real Kubernetes for tests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A cluster on this machine (`tests/kubernetes/run`): a control plane, two nodes with kubelet and containerd, and a fake one that takes no
/// pods. It ends with this.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    run: Child,
}

impl Cluster {
    /// Several at a time have different numbers, 0 to 99. `None` where it can't run here, which is said.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(number: u32) -> Option<Self> {
        let needed = ["go", "containerd", "runc", "iptables", "busybox"];
        if !crate::is_root() || !needed.into_iter().all(crate::has_program) {
            return None;
        }
        let folder = std::env::temp_dir().join(format!("berth-kube-{number}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kubernetes/run");
        let log = std::fs::File::create(folder.join("run.log")).expect("log");
        let mut run = Command::new(script);
        run.arg(&folder).args(["2", "1"]).env("TESTCLUSTER", number.to_string()).env("TESTCLUSTER_GRACE", "15");
        run.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        let cluster = Self { run: run.spawn().expect("tests/kubernetes/run"), folder };
        // The first time it is built.
        cluster.wait(|| cluster.folder.join("up").exists(), Duration::from_secs(1500), "the cluster comes up");
        cluster.kubectl(&["taint", "nodes", "-l", "testcluster/fake=true", "fake=yes:NoSchedule"]);
        Some(cluster)
    }

    fn wait(&self, is: impl Fn() -> bool, limit: Duration, what: &str) {
        let begun = Instant::now();
        while !is() {
            let log = || std::fs::read_to_string(self.folder.join("run.log")).unwrap_or_default();
            assert!(begun.elapsed() < limit, "{what}: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs kubectl; what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = Command::new(self.folder.join("kubectl")).args(args).env("KUBECONFIG", self.kubeconfig()).output();
        let output = output.expect("kubectl");
        assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Makes a namespace, with its account, without which pods are refused.
    pub fn namespace(&self, name: &str) {
        self.kubectl(&["create", "namespace", name]);
        let accounts = || self.kubectl(&["-n", name, "get", "serviceaccounts", "-o", "name"]);
        self.wait(|| accounts().contains("serviceaccount/default"), Duration::from_secs(30), "the namespace's account");
    }

    /// What the administrator reaches it with.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Its folder, which the command lines of its processes name.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It takes its nodes and processes along.
        let _ = Command::new("kill").arg(self.run.id().to_string()).status();
        let _ = self.run.wait();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
