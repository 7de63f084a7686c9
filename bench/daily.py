#!/usr/bin/env python3
"""Times what is done with images and containers every day, by the command lines of berth, docker and podman in one run.

An image of about 1 GB with many small files is made here, loaded, saved, pulled from Debian's docker-registry on loopback; a
container is committed, copied from and executed in; and a published port is compared with the same program without a
container. Each figure is the median of a few repetitions, the disk's caches written out before each. Appends a table.
"""
import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

from bench import Berth, Docker, Podman, table

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}


def make_archive(path, base, megabytes):
    """What `docker save` writes: the base image's root, and four layers of small and large files."""
    rng = random.Random(1)
    blobs, layers, diff_ids = {}, [], []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        def layer(name, fill):
            at = os.path.join(folder, name)
            with tarfile.open(at, "w", format=tarfile.PAX_FORMAT) as tar:
                fill(tar)
            digest = hashlib.sha256()
            with open(at, "rb") as f:
                for chunk in iter(lambda: f.read(1 << 20), b""):
                    digest.update(chunk)
            layers.append((f"{digest.hexdigest()}/layer.tar", at))
            diff_ids.append("sha256:" + digest.hexdigest())

        def base_layer(tar):
            with tarfile.open(base) as source:
                for member in source:
                    tar.addfile(member, source.extractfile(member) if member.isreg() else None)

        pool = rng.randbytes(1 << 22)

        def content(size):
            # Half of it random, half of it text: as well compressed as programs are.
            at = rng.randrange(len(pool) - size // 2 - 1) if size // 2 < len(pool) else 0
            return (pool * (size // len(pool) + 1))[at:at + size // 2] + (b"the quick brown fox %d\n" % at) * (size // 46 + 1)

        def many(number):
            def fill(tar):
                total = 0
                for folder_number in range(100000):
                    for file_number in range(40):
                        size = rng.choice([200, 1500, 4000, 9000, 30000, 120000])
                        info = tarfile.TarInfo(f"data/{number}/{folder_number:04}/{file_number:03}.txt")
                        data = content(size)[:size]
                        info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
                        tar.addfile(info, io.BytesIO(data))
                        total += size
                    if total > megabytes * (1 << 20) * 0.2:
                        break
                info = tarfile.TarInfo(f"data/{number}/large")
                data = content(int(megabytes * (1 << 20) * 0.05))
                info.size, info.mtime = len(data), 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
            return fill

        layer("base", base_layer)
        for number in range(4):
            layer(str(number), many(number))
        config = json.dumps({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [{"created_by": "bench"}] * len(layers)}).encode()
        config_name = hashlib.sha256(config).hexdigest() + ".json"
        manifest = [{"Config": config_name, "RepoTags": ["bench/large:1"], "Layers": [name for name, _ in layers]}]
        blobs[config_name] = config
        blobs["manifest.json"] = json.dumps(manifest).encode()
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, at in layers:
                info = tarfile.TarInfo(name)
                info.size = os.path.getsize(at)
                tar.addfile(info, open(at, "rb"))
            for name, data in blobs.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


class Registry:
    def __init__(self, folder):
        self.port = 18098
        path = os.path.join(folder, "registry.yml")
        open(path, "w").write(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\nhttp: {{addr: \"127.0.0.1:{self.port}\"}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("docker-registry does not answer")

    def end(self):
        self.process.terminate()
        self.process.wait()


def settle():
    """What earlier work left to be written is not this one's."""
    subprocess.run(["sync"])
    time.sleep(0.3)


def timed(command, **more):
    begun = time.perf_counter()
    done = subprocess.run(command, **{**QUIET, **more})
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-500:]}")
    return time.perf_counter() - begun


def repeat(count, work, after=None):
    times = []
    for _ in range(count):
        settle()
        times.append(work())
        if after:
            after()
    return statistics.median(times)


def run_flags(name):
    return ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"] if name == "podman" else []


class Reader(threading.Thread):
    """Reads as fast as it comes for a while."""

    def __init__(self, port, seconds):
        super().__init__()
        self.port, self.seconds, self.rate = port, seconds, 0.0

    def run(self):
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            buffer = bytearray(1 << 20)
            connection.recv_into(buffer)
            begun, total = time.perf_counter(), 0
            while time.perf_counter() - begun < self.seconds:
                read = connection.recv_into(buffer)
                if not read:
                    break
                total += read
            self.rate = total / (time.perf_counter() - begun)


SERVER = r"""
import socket, threading
def zeros(s):
    chunk = bytes(1 << 20)
    while True:
        c, _ = s.accept()
        def go(c=c):
            try:
                while True: c.sendall(chunk)
            except OSError: pass
        threading.Thread(target=go, daemon=True).start()
def echo(s):
    while True:
        c, _ = s.accept()
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        def go(c=c):
            while True:
                d = c.recv(4096)
                if not d: return
                c.sendall(d)
        threading.Thread(target=go, daemon=True).start()
import sys
def listen(p):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", p)); s.listen(16); return s
a, b = listen(int(sys.argv[1])), listen(int(sys.argv[2]))
threading.Thread(target=zeros, args=(a,), daemon=True).start()
echo(b)
"""


def wait_for(port):
    for _ in range(200):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.settimeout(1)
                connection.sendall(b"x")
                if connection.recv(1):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"port {port} does not answer")


def port_figures(zeros, echo):
    wait_for(echo)
    rates = []
    for _ in range(11):
        reader = Reader(zeros, 1)
        reader.start()
        reader.join()
        rates.append(reader.rate)
    times = []
    with socket.create_connection(("127.0.0.1", echo)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3000):
            begun = time.perf_counter()
            connection.sendall(b"x" * 64)
            connection.recv(4096)
            times.append(time.perf_counter() - begun)
    return statistics.median(rates) / 1e9, statistics.median(times) * 1e6


def measure(name, engine, cli, archive, python_image, registry, folder):
    result = {}
    large = "bench/large:1"
    remove = lambda: subprocess.run(cli + ["rmi", "-f", large], **QUIET)
    load = [*cli, "load", "-i", archive]
    result["load 1 GB, s"] = repeat(2, lambda: timed(load), remove)
    timed(load)
    saved = os.path.join(folder, "saved.tar")
    result["save 1 GB, s"] = repeat(2, lambda: timed(cli + ["save", "-o", saved, large]), lambda: os.remove(saved))
    if registry:
        remote = f"127.0.0.1:{registry.port}/bench/large:1"
        remove()
        pull = cli + ["pull"] + (["--tls-verify=false"] if name == "podman" else []) + [remote]
        result["pull 1 GB from a registry on loopback, s"] = repeat(2, lambda: timed(pull), lambda: subprocess.run(cli + ["rmi", "-f", remote], **QUIET))
        timed(load)
    run = cli + ["run", "-d", *run_flags(name)]
    subprocess.run(run + ["--name", "work", large, "sleep", "3600"], check=True, **QUIET)
    result["copy 1 GB out as tar, s"] = repeat(2, lambda: timed(cli + ["cp", "work:/data", "-"], stdout=subprocess.DEVNULL))
    subprocess.run(cli + ["exec", "work", "sh", "-c", "mkdir /new; for i in 0 1 2 3 4; do cp -r /data/0/000$i /new/$i; done; head -c 200000000 /dev/urandom > /new/big"], check=True, **QUIET)
    result["commit 200 MB, s"] = repeat(2, lambda: timed(cli + ["commit", "work", "bench/commit:1"]), lambda: subprocess.run(cli + ["rmi", "-f", "bench/commit:1"], **QUIET))
    times = [timed(cli + ["exec", "work", "true"]) for _ in range(30)]
    result["exec of `true`, median ms"] = statistics.median(times) * 1000
    subprocess.run(cli + ["rm", "-f", "work"], **QUIET)
    subprocess.run(cli + ["import", python_image, "bench-python"] if name != "berth" else cli + ["import", python_image, "bench-python"], check=True, **QUIET)
    zeros, echo = 20991, 20992
    subprocess.run(run + ["--name", "net", "-p", f"{zeros}:7001", "-p", f"{echo}:7002", "bench-python", "python3", "-c", SERVER, "7001", "7002"], check=True, **QUIET)
    rate, latency = port_figures(zeros, echo)
    result["published port, GB/s"] = rate
    result["published port, round trip, median us"] = latency
    subprocess.run(cli + ["rm", "-f", "net"], **QUIET)
    return result


SINK = r"""
import socket, sys, threading, time
def listen(p):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", p)); s.listen(16); return s
def each(s, go):
    while True:
        c, _ = s.accept()
        threading.Thread(target=go, args=(c,), daemon=True).start()
def source(c):
    try:
        while True: c.sendall(bytes(1 << 18))
    except OSError: pass
def count(receive):
    # Tells the log every tenth of a second what has come: the receiver's clock and count are the measure, and the log
    # does not go over the network that is measured.
    buffer, total, told = bytearray(1 << 18), 0, 0.0
    while True:
        n = receive(buffer)
        if not n: return
        total += n
        if time.monotonic() - told > 0.1:
            told = time.monotonic()
            print("%f %d" % (told, total), flush=True)
def sink(c):
    try: count(c.recv_into)
    except OSError: pass
def flood(s):
    # "send COUNT RATE": so many datagrams of 1,000 bytes, so many a second, to whoever asks.
    while True:
        words, to = s.recvfrom(2000)
        if words.startswith(b"send "):
            _, number, rate = words.split()
            send(s, to, int(number), float(rate))
def send(s, to, number, rate):
    begun = time.monotonic()
    for n in range(number):
        s.sendto(bytes(1000), to)
        ahead = begun + n / rate - time.monotonic()
        if ahead > 0: time.sleep(ahead)
        # Held up by a cap: the next one asks for its own.
        if time.monotonic() - begun > number / rate: return
def udp(p):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22); s.bind(("", p)); return s
if __name__ == "__main__":
    threading.Thread(target=flood, args=(udp(7003),), daemon=True).start()
    threading.Thread(target=count, args=(udp(7004).recv_into,), daemon=True).start()
    threading.Thread(target=each, args=(listen(7001), source), daemon=True).start()
    each(listen(7002), sink)
"""
# What a packet takes on Ethernet, of what it carries: a full TCP segment, and a datagram of 1,000 bytes.
SEGMENT, DATAGRAM = 1514 / 1448, 1042 / 1000


def connect(address, port):
    for _ in range(100):
        try:
            return socket.create_connection((address, port), timeout=5)
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{address}:{port} does not answer")


def paced(udp, to, number, rate):
    begun = time.monotonic()
    for n in range(number):
        udp.sendto(bytes(1000), to)
        ahead = begun + n / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)


def rate_of(samples, settle, frame):
    """Bits of frames a second, of times and counts, the first seconds left out."""
    kept = [s for s in samples if s[0] - samples[0][0] >= settle]
    return (kept[-1][1] - kept[0][1]) * 8 * frame / (kept[-1][0] - kept[0][0])


def rate_out(address, bits, seconds, settle):
    """What comes out of the container, by what arrives here: slow caps by datagrams at twice the rate, fast ones by TCP."""
    samples, total = [], 0
    if bits <= 1e8:
        per_second = 2 * bits / 8 / 1042
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            # What came in before may still be queued ahead of this: ten seconds of the slowest cap.
            udp.settimeout(15)
            udp.sendto(b"send %d %f" % ((settle + seconds) * per_second, per_second), (address, 7003))
            while not samples or samples[-1][0] - samples[0][0] < settle + seconds - 0.5:
                total += len(udp.recv(2000))
                samples.append((time.monotonic(), total))
            time.sleep(1)
        return rate_of(samples, settle, DATAGRAM)
    with connect(address, 7001) as connection:
        buffer = bytearray(1 << 18)
        while not samples or samples[-1][0] - samples[0][0] < settle + seconds:
            total += connection.recv_into(buffer)
            samples.append((time.monotonic(), total))
    return rate_of(samples, settle, SEGMENT)


def rate_in(cli, address, bits, seconds, settle):
    """What goes into the container, by what its log says has arrived."""
    logged = lambda: subprocess.run(cli + ["logs", "cap"], check=True, capture_output=True, text=True).stdout.splitlines()
    before = len(logged())
    if bits <= 1e8:
        per_second = 2 * bits / 8 / 1042
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            paced(udp, (address, 7004), int((settle + seconds) * per_second), per_second)
        # Until what waits has gone in: up to 128 KiB. What is sent before that may be dropped.
        time.sleep(1 + (128 << 10) * 8 / bits)
        frame = DATAGRAM
    else:
        with connect(address, 7002) as connection:
            begun, chunk = time.monotonic(), bytes(1 << 18)
            while time.monotonic() - begun < settle + seconds:
                connection.send(chunk)
        frame = SEGMENT
    samples = [tuple(map(float, line.split())) for line in logged()[before:]]
    begun = samples[0][0]
    return rate_of([s for s in samples if s[0] - begun < settle + seconds - 0.5], settle, frame)


def network_figures(cli, python_image):
    """Caps against what arrives, and counters against what a known generator sends. Tables, as lines."""
    subprocess.run(cli + ["import", python_image, "bench-python"], check=True, **QUIET)
    subprocess.run(cli + ["run", "-d", "--name", "cap", "--bandwidth", "10gbit", "bench-python", "python3", "-c", SINK], check=True, **QUIET)
    shown = json.loads(subprocess.run(cli + ["inspect", "cap"], check=True, capture_output=True).stdout)
    address = shown[0]["address"]
    lines = ["| cap, changed live | in, of the cap | out, of the cap |", "|---|---|---|"]
    for name, bits, seconds in [("100kbit", 1e5, 20), ("1mbit", 1e6, 8), ("10mbit", 1e7, 5), ("100mbit", 1e8, 4), ("1gbit", 1e9, 4), ("10gbit", 1e10, 4)]:
        subprocess.run(cli + ["update", "--bandwidth", name, "cap"], check=True, **QUIET)
        into, out = rate_in(cli, address, bits, seconds, 2), rate_out(address, bits, seconds, 2)
        lines.append(f"| {name} | {into / bits:.3f} | {out / bits:.3f} |")
        print(lines[-1], file=sys.stderr)
    subprocess.run(cli + ["update", "--bandwidth", "none", "cap"], check=True, **QUIET)
    traffic = lambda: json.loads(subprocess.run(cli + ["traffic", "--json", "cap"], check=True, capture_output=True).stdout)[0]
    count, exact = 50_000, 50_000 * 1028
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        udp.settimeout(2)
        time.sleep(2)
        before = traffic()
        paced(udp, (address, 7004), count, 20_000)
        between = traffic()
        udp.sendto(b"send %d 20000" % count, (address, 7003))
        for _ in range(count):
            udp.recv(2000)
        after = traffic()
    into = (between["rx_bytes"] - before["rx_bytes"]) / exact - 1
    out = (after["tx_bytes"] - between["tx_bytes"]) / exact - 1
    lines += ["", f"{count:,} datagrams of 1,000 bytes each way: counted bytes differ from those sent by {into * 100:.4f} % in, {out * 100:.4f} % out (what",
        "else came is counted too: ARP, and IPv6's greetings)."]
    subprocess.run(cli + ["rm", "-f", "cap"], **QUIET)
    return lines


def bare():
    process = subprocess.Popen([sys.executable, "-c", SERVER, "20993", "20994"])
    try:
        rate, latency = port_figures(20993, 20994)
        return {"published port, GB/s": rate, "published port, round trip, median us": latency}
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--berth", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--out")
    parser.add_argument("--megabytes", type=int, default=1000)
    arguments = parser.parse_args()
    results = {}
    work = tempfile.mkdtemp(prefix="bench-daily-", dir="/var/tmp")
    registry = None
    try:
        archive = os.path.join(work, "large.tar")
        print("making an image", file=sys.stderr)
        make_archive(archive, arguments.image, arguments.megabytes)
        if shutil.which("docker-registry") and shutil.which("skopeo"):
            registry = Registry(work)
            subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}",
                            f"docker://127.0.0.1:{registry.port}/bench/large:1"], check=True)
        else:
            print("skipped: pulls need docker-registry and skopeo", file=sys.stderr)
        settings = os.path.join(work, "berth.toml")
        open(settings, "w").write("[registries.hosts.\"127.0.0.1:18098\"]\nplain_http = true\n")

        def berth(folder):
            engine = Berth(arguments.berth, arguments.image, folder, settings)
            return engine, [arguments.berth, "--data-dir", engine.data]

        def docker(folder):
            engine = Docker(arguments.image, folder)
            return engine, engine.command

        def podman(folder):
            engine = Podman(arguments.image, folder)
            return engine, engine.command

        for name, program, make in [("berth", None, berth), ("docker", "dockerd", docker), ("podman", "podman", podman)]:
            if program and not shutil.which(program):
                print(f"skipped: {name} is not installed", file=sys.stderr)
                continue
            folder = tempfile.mkdtemp(prefix=f"bench-{name}-", dir="/var/tmp")
            print(f"measuring {name}", file=sys.stderr)
            try:
                engine, cli = make(folder)
                try:
                    results[name] = measure(name, engine, cli, archive, arguments.python, registry, folder)
                    if name == "berth":
                        network = network_figures(cli, arguments.python)
                finally:
                    subprocess.run(cli + ["rm", "-f", "work", "net", "cap"], **QUIET)
                    engine.end()
            except Exception as error:
                print(f"{name} could not be measured: {error!r}", file=sys.stderr)
                if name == "berth":
                    raise
            finally:
                subprocess.run(["rm", "-rf", folder])
        results["no container"] = bare()
        size = os.path.getsize(archive) / 1e6
    finally:
        if registry:
            registry.end()
        subprocess.run(["rm", "-rf", work])
    text = "\n".join([
        "", "## Daily life", "",
        f"An archive of `docker save` of {size:.0f} MB, five layers, some 30,000 files of 200 bytes to 120 kB and four large ones. By the command lines,",
        "each in the same run; medians; what earlier work left to be written was written out before each. Loading, saving and pulling are bound by this",
        "machine's disk (100 to 440 MB/s) as soon as its caches are full.", "",
        *table(results), "",
        "Bandwidth caps, both set to the same, one direction at a time, by datagrams at twice the rate up to 100 Mbit/s and by one TCP\nconnection above; bits of Ethernet frames by what arrives at the receiver, the first two seconds left out. A cap is of IP packets, as traffic is\ncounted: full frames of 1,514 bytes are 1.009 of it:", "",
        *network, ""])
    print(text)
    if arguments.out:
        open(arguments.out, "a").write(text)


if __name__ == "__main__":
    main()
