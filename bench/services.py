#!/usr/bin/env python3
"""Commands, deployments and lists under load: the figures of services.

Commands are accepted while 200 containers run; a group of 50 is deployed to one after another while clients call its port; ten
thousand containers' records are listed and looked up. Appends a Markdown table.
"""
import argparse
import concurrent.futures
import http.server
import json
import os
import socket
import tempfile
import threading
import time
import zipfile

from bench import Berth


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


class Caller(threading.Thread):
    """Keeps one connection and sends one request after another, at its share of the rate."""

    def __init__(self, berth, method, paths, rate, seconds):
        super().__init__()
        self.berth, self.method, self.paths, self.rate, self.seconds = berth, method, paths, rate, seconds
        self.times, self.failures = [], []

    def run(self):
        # By hand: Python's own client takes more of a core than what it is to measure.
        connection = socket.create_connection(("127.0.0.1", self.berth.port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests = [f"{self.method} {path} HTTP/1.1\r\nHost: x\r\nX-Token: {self.berth.token}\r\nContent-Length: 0\r\n\r\n".encode()
                    for path in self.paths]
        begun = time.perf_counter()
        for number in range(int(self.rate * self.seconds)):
            due = begun + number / self.rate
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            at = time.perf_counter()
            connection.sendall(requests[number % len(requests)])
            answer = connection.recv(1 << 16)
            end = answer.index(b"\r\n\r\n") + 4
            length = int(answer[:end].lower().split(b"content-length: ")[1].split(b"\r")[0])
            missing = end + length - len(answer)
            while missing > 0:
                missing -= len(connection.recv(1 << 20))
            self.times.append((time.perf_counter() - at) * 1000)
            if not answer.startswith(b"HTTP/1.1 2"):
                self.failures.append(answer[:100])


class Knocker(threading.Thread):
    """Calls a port over and over, each time by a connection of its own."""

    def __init__(self, port):
        super().__init__()
        self.port, self.calls, self.failures, self.over = port, 0, [], False

    def run(self):
        while not self.over:
            self.calls += 1
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
                    text = b""
                    while piece := connection.recv(4096):
                        text += piece
                    if b"200 OK" not in text:
                        self.failures.append(text)
            except OSError as error:
                self.failures.append(error)


def commands(berth):
    """Commands asked for at 2,400 a second for ten seconds while 200 containers run; milliseconds."""
    numbers = []
    for number in range(200):
        body = json.dumps({"image": "bench", "command": ["sleep", "600"], "start": True, "memory": 16 << 20})
        status, text = berth.call("POST", "/v1/containers", body)
        assert status == 201, text
        numbers.append(json.loads(text)["number"])
    callers = []
    for part in range(16):
        paths = [f"/api/v1/container/{n}/start" for n in numbers[part::16]]
        callers.append(Caller(berth, "POST", paths, 2400 / 16, 10))
    begun = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    elapsed = time.perf_counter() - begun
    times = [t for c in callers for t in c.times]
    failures = [f for c in callers for f in c.failures]
    accepted = len(times) - len(failures)
    # Until the last of them is over.
    while json.loads(berth.call("GET", "/v1/commands?open=true&limit=1")[1])["items"]:
        time.sleep(0.05)
    done = time.perf_counter() - begun
    for container in json.loads(berth.call("GET", "/v1/containers?limit=1000")[1])["items"]:
        berth.call("DELETE", f"/v1/containers/{container['id']}?force=true")
    return accepted / elapsed, percentile(times, 50), percentile(times, 99), len(failures), accepted / done


def wait(berth, command):
    status, text = berth.call("GET", f"/v1/commands/{command}/wait")
    return json.loads(text)


def deployment(berth, folder):
    """A group of 50 deployed to one after another, made anew; seconds, calls meanwhile, calls that failed."""
    for name in ("one", "two"):
        with zipfile.ZipFile(os.path.join(folder, f"{name}.zip"), "w") as archive:
            archive.writestr("index.html", name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *arguments):
            pass

    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    assert berth.call("POST", "/v1/services", json.dumps({"name": "shop"}))[0] == 201
    script = "mkdir -p /app; httpd -f -p 80 -h /app & trap 'kill $!; exit 0' TERM; wait"
    spec = {"replicas": 50, "image": "bench", "command": ["sh", "-c", script], "memory": 16 << 20,
            "ports": [{"container_port": 80, "host_port": 20900}]}
    status, text = berth.call("POST", "/v1/services/shop/groups", json.dumps({"name": "prod", "spec": spec}))
    assert status == 201, text
    wait(berth, json.loads(text)["command"]["id"])

    def deploy(name, method):
        body = {"url": f"http://127.0.0.1:{files.server_port}/{name}.zip", "update": True, "method": method}
        status, text = berth.call("POST", "/v1/services/shop/groups/prod/deploy", json.dumps(body))
        assert status == 202, text
        done = wait(berth, json.loads(text)["id"])
        assert done["result"] == "success", done["message"]

    deploy("one", "parallel")
    knockers = [Knocker(20900) for _ in range(4)]
    for knocker in knockers:
        knocker.start()
    begun = time.perf_counter()
    deploy("two", "sequential")
    elapsed = time.perf_counter() - begun
    for knocker in knockers:
        knocker.over = True
    for knocker in knockers:
        knocker.join()
    failures = [f for k in knockers for f in k.failures]
    status, text = berth.call("DELETE", "/v1/services/shop/groups/prod")
    wait(berth, json.loads(text)["id"])
    return elapsed, sum(k.calls for k in knockers), failures


def records(berth):
    """Ten thousand containers' records, made and never started; milliseconds for a page of 100, for one, and for all of acs."""
    ids = []

    def make(_):
        status, text = berth.call("POST", "/v1/containers", json.dumps({"image": "bench", "command": ["sleep", "1"], "network": "none"}))
        assert status == 201, text
        return json.loads(text)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(10_000)))
    ids, numbers = [m["id"] for m in made], [m["number"] for m in made]

    def timed(paths, count):
        caller = Caller(berth, "GET", paths, 200, count / 200)
        caller.start()
        caller.join()
        assert not caller.failures, caller.failures[:3]
        return percentile(caller.times, 50), percentile(caller.times, 99)

    page = timed([f"/v1/containers?limit=100&cursor={n}" for n in numbers[:9900:33]], 1000)
    one = timed([f"/v1/containers/{i}" for i in ids[::7]], 1000)
    acs = timed([f"/api/v1/container/{n}" for n in numbers[::7]], 1000)
    whole = timed(["/api/v1/container"], 20)
    return page, one, acs, whole


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--berth", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        # What is measured is berth's own time, not that for which a new container has to prove itself.
        settings = os.path.join(folder, "berth.toml")
        with open(settings, "w") as file:
            file.write("[core]\nready_time_ms = 0\nsoak_time_ms = 0\naccount_requests_per_s = 0\ncommands_waiting = 100000\n")
        berth = Berth(asked.berth, asked.image, folder, settings)
        try:
            rate, p50, p99, refused, through = commands(berth)
            elapsed, calls, failures = deployment(berth, folder)
            page, one, acs, whole = records(berth)
        finally:
            berth.end()
    rows = [
        ["commands accepted a second, durable, 200 containers running", f"{rate:.0f}", "2000"],
        ["until a command is accepted, ms: median, p99", f"{p50:.2f}, {p99:.2f}", "p99 < 20"],
        ["commands refused", f"{refused}", "0"],
        ["commands done a second, from first accepted to last done", f"{through:.0f}", ""],
        ["sequential deployment over 50 containers, `ready_time_ms` and `soak_time_ms` 0, s", f"{elapsed:.1f}", ""],
        ["calls of the group's port meanwhile; failed", f"{calls}; {len(failures)}", "0 failed"],
        ["10,000 records: page of 100, ms: median, p99", f"{page[0]:.2f}, {page[1]:.2f}", "p99 < 5"],
        ["10,000 records: one, ms: median, p99", f"{one[0]:.2f}, {one[1]:.2f}", "p99 < 5"],
        ["10,000 records: one by `acs`, ms: median, p99", f"{acs[0]:.2f}, {acs[1]:.2f}", "p99 < 5"],
        ["10,000 records: all in one answer by `acs`, ms: median", f"{whole[0]:.0f}", ""],
    ]
    lines = ["| | berth | target |", "|---|---|---|"] + [f"| {' | '.join(row)} |" for row in rows]
    text = "\n## Services\n\nWritten by `bench/services.py`.\n\n" + "\n".join(lines) + "\n"
    print(text)
    for failure in failures[:5]:
        print("failed:", failure)
    if asked.out:
        with open(asked.out, "a") as out:
            out.write(text)


if __name__ == "__main__":
    main()
