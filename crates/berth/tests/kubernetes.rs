//! The whole program on a real cluster: the command line of every day against pods.

use berth_testkit::{Cluster, Server, done, http, image};
use serde_json::Value;

const IMAGE: &str = "localhost/busybox:1";

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_of_every_day_works_on_a_cluster() {
    let Some(cluster) = Cluster::start(92) else { return };
    let Some(rootfs) = image("busybox") else { return };
    cluster.namespace("shop");
    let settings = format!(
        "[engine]\nkind = \"kubernetes\"\n[kubernetes]\nkubeconfig = {:?}\nnamespace = \"shop\"\nstart_limit_s = 60\n",
        cluster.kubeconfig()
    );
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "kubernetes", &settings).await;
    server.import(&rootfs, IMAGE, &[]);
    // In the foreground: its output and its exit code.
    let (code, out, error) = server.cli(&["run", "--rm", IMAGE, "sh", "-c", "echo to be heard; exit 3"]);
    assert_eq!((code, out.as_str()), (3, "to be heard\n"), "{error}");
    // In the background: published on its node, with its output, processes in it, and its state.
    let web = ["run", "-d", "--name", "web", "-p", "31930:80", "--restart", "always", "-e", "GREETING=你好", IMAGE];
    let serve = ["sh", "-c", "echo $GREETING > /index.html; echo serving; exec httpd -f -h /"];
    done(&server, &[&web[..], &serve].concat());
    assert_eq!(done(&server, &["logs", "web"]), "serving\n");
    assert_eq!(done(&server, &["exec", "web", "cat", "/index.html"]), "你好\n");
    let pod: Value =
        serde_json::from_str(&cluster.kubectl(&["-n", "shop", "get", "pods", "-o", "json"])).expect("json");
    let node = pod["items"][0]["status"]["hostIP"].as_str().expect("the pod's node").to_owned();
    let page = http().get(format!("http://{node}:31930/index.html")).send().await.expect("the page");
    assert_eq!(page.text().await.expect("text"), "你好\n");
    assert!(done(&server, &["ps"]).contains("Up"), "{}", done(&server, &["ps"]));
    // Its pod is deleted by somebody: its policy brings it back, as a new one.
    let name = pod["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    cluster.kubectl(&["-n", "shop", "delete", "pod", &name, "--grace-period=0", "--force"]);
    let begun = std::time::Instant::now();
    while server.cli(&["exec", "web", "true"]).0 != 0 {
        assert!(begun.elapsed().as_secs() < 60, "{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // The server is killed: the pod runs on, and the next server knows it.
    server.kill();
    server.up().await;
    assert_eq!(done(&server, &["exec", "web", "cat", "/index.html"]), "你好\n");
    // Stopped, started, removed.
    done(&server, &["stop", "web"]);
    assert!(done(&server, &["ps", "-a"]).contains("Exited"), "{}", done(&server, &["ps", "-a"]));
    done(&server, &["start", "web"]);
    assert_eq!(done(&server, &["exec", "web", "echo", "again"]), "again\n");
    // What a cluster can't do is said.
    let (code, _, error) = server.cli(&["pause", "web"]);
    assert!(code != 0 && error.contains("pausing a container is not possible on this engine"), "{error}");
    let (code, _, error) = server.cli(&["run", "--user", "nobody", IMAGE, "true"]);
    assert!(code == 125 && error.contains("a user is given by number"), "{error}");
    done(&server, &["rm", "-f", "web"]);
    for container in done(&server, &["ps", "-aq"]).lines() {
        done(&server, &["rm", "-f", container]);
    }
    assert_eq!(cluster.kubectl(&["-n", "shop", "get", "pods,secrets", "-o", "name"]), "");
    server.finish().await;
}
