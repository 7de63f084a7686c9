"""manual.py PAGE...: types the lines of the pages' `console` blocks one by one, as root on a machine whose service runs.

What stands for something of the reader's own is put in. Each line must end in time and be understood; where a page tells what to do (and not
what to look at), each must end with 0.
"""
import datetime
import pathlib
import re
import subprocess
import sys

MISUNDERSTOOD = re.compile("unexpected argument|unrecognized subcommand|invalid value|required arguments|command not found|syntax error")
# The machine has no network but its own, and keeps its time by itself.
OUTSIDE = ("example.com", "1.1.1.1", "timedatectl")


def run(line, limit=60):
    try:
        done = subprocess.run(["bash", "-c", line], cwd="/etc/berth", stdin=subprocess.DEVNULL, timeout=limit,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except subprocess.TimeoutExpired as error:
        sys.exit(f"FAILED: not over after {limit} s: {line}\n{(error.stdout or b'').decode()[-1000:]}")
    return done.returncode, done.stdout


def must(line):
    code, text = run(line)
    if code != 0:
        sys.exit(f"FAILED: {code}: {line}\n{text}")
    return text.strip()


def put_in(line):
    """The reader's own names for those of the page."""
    if " ID" in line:
        line = line.replace(" ID", " " + must("berth commands | awk '$1 ~ /-/ {print $1; exit}'"))
    if "4f8655b990c7" in line:
        line = line.replace("4f8655b990c7", must("berth --for-account shop ps -q"))
    return (line.replace("NAME", "web").replace("2026-11-28", datetime.date.today().isoformat())
            .replace("the command of the check", "true").replace("curl -si …", "curl -si http://127.0.0.1:8080/v1/containers"))


def after(line):
    """What the reader has done on the way, which the page doesn't tell."""
    if line.startswith("openssl req"):
        [toml] = re.findall(r"(?ms)^```toml\n(\[https\].*?)^```", text)
        # The commented example has the section's heading.
        settings = pathlib.Path("/etc/berth/berth.toml")
        if toml not in settings.read_text():
            settings.write_text(settings.read_text().replace("[https]\n", toml, 1))
        must("systemctl restart berth; until berth ps; do sleep 0.2; done; berth token create --admin prod | grep -o 'berth_[0-9a-f]*' >berth.token")
    if line.startswith("berth account create shop"):
        must("berth official busybox; berth --for-account shop run -d --name web --memory 16m --cpus 0.5 --ingress 1m --egress 1m"
             " --storage-opt size=10m busybox sleep 9999")
    if line.startswith("systemctl start berth") or line.startswith("systemctl restart berth"):
        must("until berth ps; do sleep 0.2; done")
        # A backup has no images unless it is asked for them.
        must("berth import --cmd sh /job/busybox.tar busybox")


for page in sys.argv[1:]:
    text = pathlib.Path(page).read_text()
    tells = "operating" in page or "limits" in page
    if "account inspect shop" in text and "account create shop" not in text:
        must("berth account create shop")
    if "berth commands ID" in text:
        must("berth group create manual/one --image busybox -- sleep 9999")
    typed = 0
    for block in re.findall(r"(?ms)^```console\n(.*?)^```", text):
        for line in block.splitlines():
            if line[:2] not in ("$ ", "# "):
                continue
            line = put_in(line[2:])
            code, said = run(line)
            print(f"{code} {line}")
            if MISUNDERSTOOD.search(said) or code == 127 or (tells and code != 0):
                sys.exit(f"FAILED: {page}: {code}: {line}\n{said}")
            if code != 0 and not any(word in line for word in OUTSIDE) and "grep" not in line:
                print(said)
            after(line)
            typed += 1
    if not typed:
        sys.exit(f"FAILED: {page} has no blocks")
    # As it was before the page.
    must("if berth service ls | grep -q manual; then berth group rm manual/one; berth service rm manual; fi")
    must("if berth account ls | grep -q '^shop'; then berth rm -f --all-accounts $(berth --for-account shop ps -aq); berth account rm shop; fi")
    must("rm -rf /var/backups/berth-*; berth context rm --force prod 2>/dev/null; true")
