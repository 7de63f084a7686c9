//! The tours of the manual, pasted block by block into one shell, as a reader does it; each leaves nothing behind. (What the README says
//! about installing is done in a Debian guest, tests/vm/service.sh.)

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use berth_testkit::{Server, free_port, has_program, image, is_root};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace").to_owned()
}

/// The tours, in their order.
const TOURS: [&str; 6] = ["tour", "quickstart", "services", "cloud", "edge", "registry"];

/// The blocks of shell commands below each heading of the second level.
fn tours(text: &str) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            None if line.starts_with("## ") => all.push((line[3..].to_owned(), Vec::new())),
            None if line == "```sh" => block = Some(String::new()),
            None => {}
            Some(text) if line == "```" => {
                let of: &mut Vec<String> = &mut all.last_mut().expect("a heading").1;
                of.push(std::mem::take(text));
                block = None;
            }
            Some(text) => *text += &format!("{line}\n"),
        }
    }
    all.retain(|(_, blocks)| !blocks.is_empty());
    all
}

/// A shell that is typed into.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    pasted: usize,
}

impl Shell {
    fn start(server: &Server, programs: &Path) -> Self {
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut child = Command::new("bash")
            .current_dir(workspace())
            .env("BERTH_HOST", server.url("").trim_end_matches('/'))
            .env("BERTH_DATA_DIR", &server.data)
            .env("BERTH_SOURCE", workspace())
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash");
        let (said, output) = channel();
        let readers: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("stdout")), Box::new(child.stderr.take().expect("stderr"))];
        for reader in readers {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(reader).lines().map_while(Result::ok) {
                    let _ = said.send(line);
                }
            });
        }
        let input = child.stdin.take().expect("stdin");
        Self { child, input, output, pasted: 0 }
    }

    /// Pastes a block; what it printed.
    fn paste(&mut self, block: &str) -> String {
        self.pasted += 1;
        let end = format!("end of block {}", self.pasted);
        writeln!(self.input, "{block}echo; echo '{end}'; echo '{end}' >&2").expect("paste");
        let (mut text, mut ends) = (String::new(), 0);
        while ends < 2 {
            let line = self.output.recv_timeout(Duration::from_secs(180));
            let line = line.unwrap_or_else(|_| panic!("it does not end:\n{block}\n{text}"));
            if line.ends_with(&end) { ends += 1 } else { text += &format!("{line}\n") }
        }
        println!("{block}---\n{text}===");
        assert!(!text.contains("command not found") && !text.contains("syntax error"), "{block}\n{text}");
        text
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a reader sees of what there is.
fn inventory(server: &Server) -> String {
    // Without the columns at the end that tell of times.
    let first = |line: &str| line.split_whitespace().take(5).collect::<Vec<_>>().join(" ") + "\n";
    ["ps -aq", "images", "volume ls", "group ls", "service ls", "key ls", "host ls"]
        .map(|line| server.cli(&line.split(' ').collect::<Vec<_>>()).1.lines().map(first).collect::<String>())
        .join("\n")
}

/// Pastes all tours into the shell, as `settings` have the server; what was printed.
async fn walk(server: &mut Server, shell: &mut Shell, text: &str, settings: &str, before: &str) -> String {
    let mut said = String::new();
    let mut sections = 0;
    for (heading, blocks) in tours(text) {
        for block in blocks {
            if let Some(line) = block.strip_prefix("make run") {
                // In the first terminal.
                if let Some(file) = line.trim().strip_prefix("CONFIG=") {
                    let more = std::fs::read_to_string(file).expect("settings");
                    std::fs::write(server.data.join("berth.toml"), format!("{settings}{more}")).expect("settings");
                    server.terminate();
                } else {
                    // It was killed by the block before; its process may not have ended.
                    server.kill();
                }
                server.up().await;
                continue;
            }
            if block.starts_with("apt-get ") {
                continue;
            }
            // What the shell has already.
            let block = block.replace("export BERTH_SOURCE=$PWD BERTH_DATA_DIR=$PWD/data PATH=$PWD/dist:$PATH\n", "");
            said += &shell.paste(&block);
        }
        sections += 1;
        // The image of the first tour is used by all; what the first begins the second goes on with.
        let left = inventory(server);
        if sections > 1 {
            let left: Vec<&str> = left.lines().filter(|line| !line.starts_with("busybox:latest ")).collect();
            assert_eq!(left, before.lines().collect::<Vec<_>>(), "after {heading}");
        }
    }
    assert!(sections >= 6, "{sections} tours");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tours_work_as_pasted_and_leave_nothing() {
    let needed = ["bash", "curl", "ssh", "python3", "docker-registry", "dpkg-deb", "pgrep"];
    if !is_root() || image("busybox").is_none() || !needed.into_iter().all(has_program) {
        return;
    }
    let mut server = Server::start(env!("CARGO_BIN_EXE_berth"), "readme", "").await;
    let before = inventory(&server);
    let programs = server.data.join("bin");
    std::fs::create_dir(&programs).expect("folder");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_berth"), programs.join("berth")).expect("link");
    let mut shell = Shell::start(&server, &programs);
    let (files, registry) = (free_port().to_string(), free_port().to_string());
    let address = server.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let read = |name: &str| std::fs::read_to_string(workspace().join(format!("docs/{name}.md"))).expect(name);
    let text = TOURS.map(read).concat();
    // Another test, or the developer's own server, may have those ports.
    let text = text.replace("127.0.0.1:8080", &address).replace("127.0.0.1:9000", &format!("127.0.0.1:{files}"));
    let text =
        text.replace("http.server 9000", &format!("http.server {files}")).replace(":5055", &format!(":{registry}"));
    let settings = std::fs::read_to_string(server.data.join("berth.toml")).expect("settings");
    // Twice on the same machine: the first time leaves nothing that is in the way of the second.
    let mut said = String::new();
    for _ in 0..2 {
        said += &walk(&mut server, &mut shell, &text, &settings, &before).await;
    }
    for expected in [
        "exit code 3",
        "<h1>new</h1>",
        "<h1>mine 我的</h1>",
        "tick 一二三",
        "Pushed: 127.0.0.1:",
        "<h1>one</h1>",
        "is unhealthy: GET /index.html on port 80: status 404",
        "worked   v3.tar.gz",
        "\"name\":\"node_start\"",
        "你好 from ",
        "\"image_id\":",
        "it said: no disk for port 8107",
        "10 \"image\":\"edge:1\"",
        "10 \"image\":\"edge:2\"",
    ] {
        assert!(said.contains(expected), "nothing said {expected:?}");
    }
    let own = shell.child.id().to_string();
    let left = Command::new("pgrep").args(["-P", &own]).output().expect("pgrep");
    assert!(left.stdout.is_empty(), "processes are left: {}", String::from_utf8_lossy(&left.stdout));
    drop(shell);
    server.finish().await;
}

/// Both languages show the same commands.
#[test]
fn the_commands_are_the_same_in_both_languages() {
    let commands = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(workspace().join(name)).expect(name);
        let without_comment = |line: &str| line.split("  # ").next().unwrap_or_default().trim_end().to_owned();
        let blocks = tours(&text).into_iter().flat_map(|(_, blocks)| blocks);
        blocks.flat_map(|block| block.lines().map(without_comment).collect::<Vec<_>>()).collect()
    };
    let tours = TOURS.map(|name| (format!("docs/{name}.md"), format!("docs/zh/{name}.md")));
    for (english, chinese) in tours.into_iter().chain([("README.md".to_owned(), "README.zh-CN.md".to_owned())]) {
        let (one, other) = (commands(&english), commands(&chinese));
        for (one, other) in one.iter().zip(&other) {
            assert_eq!(one, other, "{english}");
        }
        assert_eq!(one.len(), other.len(), "{english}");
        assert!(!one.is_empty(), "{english}");
    }
}

/// What links lead to is there, in every page.
#[test]
fn links_between_pages_lead_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)#:]+)(#[^)]*)?\)").expect("an expression");
    let mut pages =
        vec!["README.md".into(), "README.zh-CN.md".into(), "ARCHITECTURE.md".into(), "CONTRIBUTING.md".into()];
    for folder in ["docs", "docs/zh"] {
        let entries = std::fs::read_dir(workspace().join(folder)).expect(folder).flatten();
        pages.extend(
            entries.map(|e| PathBuf::from(folder).join(e.file_name())).filter(|p| p.extension() == Some("md".as_ref())),
        );
    }
    assert!(pages.len() > 15);
    for page in pages {
        let text = std::fs::read_to_string(workspace().join(&page)).expect("a page");
        for found in link.captures_iter(&text) {
            let to = page.parent().unwrap_or(Path::new("")).join(&found[1]);
            assert!(workspace().join(&to).exists(), "{}: {} is not there", page.display(), to.display());
        }
    }
}
