//! Docker's habits: lines of docker's command line, typed one after the other, against what docker itself did with them.

use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_testkit::{Server, image, is_root};

/// A line that goes on until it is ended is given so long.
const ENDLESS: Duration = Duration::from_secs(2);
/// Time for all others.
const LIMIT: Duration = Duration::from_secs(60);

struct Line {
    docker: String,
    berth: String,
    output: Option<regex::Regex>,
    text: String,
}

fn lines() -> Vec<Line> {
    let read = |line: &str| {
        let [docker, berth, output, text] = line.splitn(4, '\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let output = regex::RegexBuilder::new(output).multi_line(true).build();
        Line {
            docker: docker.to_owned(),
            berth: berth.to_owned(),
            output: output.ok().filter(|o| o.as_str() != "-"),
            text: text.to_owned(),
        }
    };
    include_str!("docker_lines.txt").lines().filter(|l| !l.starts_with('#')).map(read).collect()
}

struct Said {
    code: String,
    text: String,
}

/// Types a line into a shell of the folder.
fn typed(folder: &Path, server: &Server, line: &Line) -> Said {
    let rest = line.text.replace("$(docker ", "$(berth ").replace("/tmp/nc", &folder.display().to_string());
    let command = format!("berth{}", rest.strip_prefix("docker").expect("a line of docker"));
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let wants_terminal = line.text.contains(" -it ");
    let mut shell = if wants_terminal { Command::new("script") } else { Command::new("bash") };
    match wants_terminal {
        true => shell.args(["-qec", &command, "/dev/null"]),
        false => shell.args(["-c", &command]),
    };
    shell.current_dir(folder).env("PATH", path).env("BERTH_DATA_DIR", &server.data).env("B", "2");
    shell.env("HOME", folder).env_remove("BERTH_HOST").env_remove("BERTH_TOKEN");
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = shell.spawn().expect("a shell");
    let (pid, limit) = (child.id().cast_signed(), if line.berth == "timeout" { ENDLESS } else { LIMIT });
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let (output, ended) = match waits.recv_timeout(limit) {
        Ok(output) => (output, true),
        Err(_) => {
            // SAFETY: plain system call: the group of the shell that was started above.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
            (waits.recv().expect("its output"), false)
        }
    };
    let output = output.expect("its output");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "");
    let code = match (ended, output.status.code()) {
        (true, Some(code)) => code.to_string(),
        _ => "timeout".to_owned(),
    };
    Said { code, text: text(&output.stdout) + &text(&output.stderr) }
}

/// What can come of a line, in both languages of the manual.
const RESULTS: [[&str; 2]; 5] = [
    ["as docker", "与 docker 相同"],
    ["berth does it, docker does not", "berth 支持，docker 不支持"],
    ["both refuse it, with other exit codes", "都拒绝，退出码不同"],
    ["both refuse it, with the same exit code", "都拒绝，退出码相同"],
    ["not here: berth says what to use instead", "不支持：berth 会说明替代办法"],
];

/// The tables of the manual: how often each result came, and what came of each line.
fn table(all: &[Line], chinese: bool) -> String {
    let mut counts = [0; RESULTS.len()];
    let mut rows = String::new();
    for line in all {
        let result = match (line.docker == line.berth, line.docker == "0", line.berth == "0") {
            (true, true, _) => 0,
            (true, ..) => 3,
            (_, false, true) => 1,
            (_, false, false) => 2,
            _ => 4,
        };
        counts[result] += 1;
        let told = RESULTS[result][usize::from(chinese)];
        let _ = writeln!(rows, "| `{}` | {told} |", line.text.replace('|', "\\|"));
    }
    let (result, lines, line) = if chinese { ("结果", "行数", "命令行") } else { ("result", "lines", "line") };
    let mut text = format!("| {result} | {lines} |\n|---|---|\n");
    for (words, count) in RESULTS.iter().zip(counts) {
        let _ = writeln!(text, "| {} | {count} |", words[usize::from(chinese)]);
    }
    format!("{text}\n| {line} | {result} |\n|---|---|\n{rows}")
}

#[test]
fn the_manual_has_the_table_of_these_lines() {
    const BEGIN: &str = "-->\n\n";
    let all = lines();
    for (page, chinese) in [("docs/docker-compatibility.md", false), ("docs/zh/docker-compatibility.md", true)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
        let manual = std::fs::read_to_string(&path).expect("the manual's page");
        let (before, after) = manual.split_once(BEGIN).expect("where the tables begin");
        let wanted = table(&all, chinese);
        if std::env::var_os("BERTH_WRITE_DOCS").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{wanted}")).expect("write");
        } else {
            assert_eq!(after, wanted, "{page} is stale");
        }
    }
    let like_docker = all.iter().filter(|line| line.docker == line.berth).count();
    assert!(like_docker >= 220, "{like_docker} of {} lines give what docker gives", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_docker_give_what_docker_gives_or_say_what_to_use() {
    if !is_root() || image("busybox").is_none() || !berth_testkit::has_program("script") {
        return;
    }
    let server = Server::start(env!("CARGO_BIN_EXE_berth"), "docker", "").await;
    let folder: PathBuf = std::env::temp_dir().join(format!("berth-docker-lines-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("t")).expect("folder");
    std::fs::create_dir(folder.join("bin")).expect("folder");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_berth"), folder.join("bin/berth")).expect("link");
    std::fs::write(folder.join("env.list"), "A=1\n").expect("file");
    std::fs::write(folder.join("l"), "a=b\n").expect("file");
    let busybox = image("busybox").expect("image");
    std::os::unix::fs::symlink(&busybox, folder.join("busybox.tar")).expect("link");
    server.import(&busybox, "busybox", &[]);
    let mut wrong = String::new();
    for line in lines() {
        // One that fails again and again has to be through with it, or it is not removed.
        while line.text.contains("system prune")
            && !server.cli(&["ps", "-aq", "--filter", "status=restarting"]).1.is_empty()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = typed(&folder, &server, &line);
        let fits = line.output.as_ref().is_none_or(|output| output.is_match(&said.text));
        if said.code != line.berth || !fits {
            let _ = writeln!(wrong, "{}\n  {} instead of {}: {:?}", line.text, said.code, line.berth, said.text);
        }
        // Whoever is refused learns why, in words of berth and not of the parser.
        let refused = line.berth != "0" && line.berth != "timeout" && line.docker == "0";
        if refused && (said.text.trim().is_empty() || said.text.contains("unexpected argument")) {
            let _ = writeln!(wrong, "{}\n  does not say what to use instead: {:?}", line.text, said.text);
        }
    }
    server.cli(&["rm", "-f", "-v", "t1b", "t2", "t5", "t6", "e4"]);
    for id in server.cli(&["ps", "-aq"]).1.lines() {
        server.cli(&["rm", "-fv", id]);
    }
    std::fs::remove_dir_all(folder).expect("clean");
    assert!(wrong.is_empty(), "{wrong}");
}
