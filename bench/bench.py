#!/usr/bin/env python3
"""Times berth beside docker and podman, where they are installed, and beside the kernel's own floor.

Each figure is a median over containers with a bridge network, a published port, and memory, cpu and pids limits, of a busybox
that sleeps. Docker is started by this script with a folder of its own; podman runs as it is. Writes a Markdown table.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

COMMAND = ["sleep", "600"]


class Berth:
    name = "berth"

    def __init__(self, program, image, folder, settings=None):
        self.data = os.path.join(folder, "berth")
        self.port = 18099
        log = open(os.path.join(folder, "berth.log"), "w")
        environment = dict(os.environ, BERTH_LOG="warn")
        self.server = subprocess.Popen(
            [program, "--data-dir", self.data, "serve", "--listen", f"127.0.0.1:{self.port}"] + (["--config", settings] if settings else []),
            stdout=log, stderr=log, env=environment)
        for _ in range(500):
            try:
                if self.call("GET", "/healthz")[0] == 200:
                    break
            except OSError:
                time.sleep(0.01)
        self.token = json.load(open(os.path.join(self.data, "admin.json")))["token"]
        subprocess.run([program, "--data-dir", self.data, "import", image, "bench"], check=True, stdout=subprocess.DEVNULL)
        self.program = program

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"X-Token": getattr(self, "token", "")}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text

    def start(self, number):
        body = json.dumps({"image": "bench", "command": COMMAND, "start": True, "memory": 64 << 20, "cpus": 0.5, "pids": 100,
                           "ports": [{"container_port": 80, "host_port": 20000 + number}]})
        status, text = self.call("POST", "/v1/containers", body)
        assert status == 201, text
        return json.loads(text)["id"]

    def remove(self, container):
        status, text = self.call("POST", f"/v1/containers/{container}/stop?timeout=0")
        assert status == 200, text
        status, text = self.call("DELETE", f"/v1/containers/{container}")
        assert status == 204, text

    def server_pids(self):
        return [self.server.pid]

    def shim_pids(self):
        return pids_named("berth-shim")

    def end(self):
        self.server.send_signal(signal.SIGTERM)
        self.server.wait()
        subprocess.run([self.program, "--data-dir", self.data, "uninstall"], check=True)


class Docker:
    name = "docker"

    def __init__(self, image, folder):
        self.data = os.path.join(folder, "docker")
        self.socket = os.path.join(folder, "docker.sock")
        log = open(os.path.join(folder, "docker.log"), "w")
        self.server = subprocess.Popen(
            ["dockerd", "--data-root", self.data, "--exec-root", os.path.join(folder, "docker-exec"), "-H", f"unix://{self.socket}",
             "-p", os.path.join(folder, "docker.pid")], stdout=log, stderr=log)
        self.command = ["docker", "-H", f"unix://{self.socket}"]
        for _ in range(300):
            if subprocess.run(self.command + ["info"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("dockerd does not answer: " + open(log.name).read()[-2000:])
        subprocess.run(self.command + ["import", image, "bench"], check=True, stdout=subprocess.DEVNULL)

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("localhost", timeout=60)
        import socket
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.socket)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text

    def start(self, number):
        body = json.dumps({"Image": "bench", "Cmd": COMMAND, "ExposedPorts": {"80/tcp": {}}, "HostConfig": {
            "Memory": 64 << 20, "NanoCpus": 500_000_000, "PidsLimit": 100,
            "PortBindings": {"80/tcp": [{"HostPort": str(20000 + number)}]}}})
        status, text = self.call("POST", "/containers/create", body)
        assert status == 201, text
        container = json.loads(text)["Id"]
        status, text = self.call("POST", f"/containers/{container}/start")
        assert status == 204, text
        return container

    def remove(self, container):
        self.call("POST", f"/containers/{container}/stop?t=0")
        status, text = self.call("DELETE", f"/containers/{container}")
        assert status == 204, text

    def server_pids(self):
        return [self.server.pid] + pids_named("containerd")

    def shim_pids(self):
        return pids_named("containerd-shim")

    def end(self):
        self.server.send_signal(signal.SIGTERM)
        self.server.wait()


class Podman:
    name = "podman"

    def __init__(self, image, folder):
        self.command = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--root", os.path.join(folder, "podman"), "--runroot", os.path.join(folder, "podman-run")]
        subprocess.run(self.command + ["import", image, "bench"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self, number):
        return subprocess.run(
            self.command + ["run", "-d", "-p", f"{20000 + number}:80", "-m", "64m", "--cpus", "0.5", "--pids-limit", "100",
                            # Its default limits can not be set without CAP_SYS_RESOURCE; crun refuses hybrid cgroups.
                            "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "bench"]
            + COMMAND, check=True, capture_output=True, text=True).stdout.strip()

    def remove(self, container):
        subprocess.run(self.command + ["stop", "-t", "0", container], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(self.command + ["rm", container], check=True, stdout=subprocess.DEVNULL)

    def server_pids(self):
        return []

    def shim_pids(self):
        return pids_named("conmon")

    def end(self):
        subprocess.run(self.command + ["rm", "-fa"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def pids_named(name):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read().strip().startswith(name[:15]):
                found.append(int(pid))
        except OSError:
            pass
    return found


def pss_kib(pid):
    try:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def available_kib():
    # Caches that could be given back would count as used or free by chance.
    subprocess.run(["sync"])
    open("/proc/sys/vm/drop_caches", "w").write("3")
    time.sleep(0.5)
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    return 0


def busy_seconds():
    """CPU time of the whole machine that was not idle: what a start costs, whichever process pays."""
    fields = [int(f) for f in open("/proc/stat").readline().split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def measure(engine, count, rates, held):
    result = {}
    for n in range(3):
        engine.remove(engine.start(n))
    starts, removals = [], []
    before = busy_seconds()
    for n in range(count):
        begun = time.perf_counter()
        container = engine.start(n)
        starts.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        engine.remove(container)
        removals.append(time.perf_counter() - begun)
    result["CPU time per cycle, ms"] = (busy_seconds() - before) / count * 1000
    result["create+start, median ms"] = statistics.median(starts) * 1000
    result["create+start, 95th percentile ms"] = sorted(starts)[int(len(starts) * 0.95)] * 1000
    result["stop+remove, median ms"] = statistics.median(removals) * 1000
    for at_once in rates:
        total = max(at_once * 3, count)
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            containers = list(pool.map(engine.start, range(total)))
        result[f"starts a second, {at_once} at once"] = total / (time.perf_counter() - begun)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(engine.remove, containers))
    time.sleep(2)
    idle = sum(map(pss_kib, engine.server_pids()))
    result["server, idle, PSS MB"] = idle / 1024
    free = available_kib()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        containers = list(pool.map(engine.start, range(held)))
    time.sleep(2)
    result[f"server with {held} containers, PSS MB"] = sum(map(pss_kib, engine.server_pids())) / 1024
    shims = engine.shim_pids()
    result["shim, PSS MB"] = sum(map(pss_kib, shims)) / max(len(shims), 1) / 1024
    result["memory per container, everything, MB"] = (free - available_kib()) / held / 1024
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(engine.remove, containers))
    return result


def floor_ms(count):
    """What no engine on this machine can go below: clone into the same namespaces, a cgroup with limits of each kind, a new
    root, and the exec of a static program; by a small C program, without overlay, network and the mounts of a container."""
    source = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void put(const char *folder, const char *file, const char *text) {
    char path[512]; snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY); if (fd >= 0) { if (write(fd, text, strlen(text)) < 0) {} close(fd); }
}
int main(int argc, char **argv) {
    if (argc == 1) for (;;) pause();
    int count = atoi(argv[1]);
    for (int n = 0; n < count; n++) {
        struct timespec a, b; int p[2], go[2]; char c, pid_text[32];
        if (pipe2(p, O_CLOEXEC) || pipe2(go, O_CLOEXEC)) return 1;
        int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int g = 3; g < argc; g++) {
            mkdir(argv[g], 0755);
            put(argv[g], "memory.limit_in_bytes", "67108864"); put(argv[g], "cpu.cfs_quota_us", "50000");
            put(argv[g], "memory.max", "67108864"); put(argv[g], "cpu.max", "50000 100000"); put(argv[g], "pids.max", "100");
        }
        long pid = syscall(SYS_clone, SIGCHLD | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET, 0, 0, 0, 0);
        if (pid == 0) {
            char *none[] = {"floor", 0};
            mount(0, "/", 0, MS_REC | MS_SLAVE, 0);
            if (mount("tmpfs", argv[2], "tmpfs", 0, 0) || read(go[0], &c, 1) != 1 || unshare(CLONE_NEWCGROUP) || chdir(argv[2])
                || syscall(SYS_pivot_root, ".", ".")) _exit(9);
            syscall(SYS_execveat, self, "", none, none, AT_EMPTY_PATH);
            _exit(9);
        }
        close(p[1]);
        snprintf(pid_text, sizeof pid_text, "%ld", pid);
        for (int g = 3; g < argc; g++) put(argv[g], "cgroup.procs", pid_text);
        if (write(go[1], "x", 1) != 1 || read(p[0], &c, 1) != 0) return 1;
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (waitpid(pid, 0, WNOHANG) != 0) return 1;
        printf("%f\n", (b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6);
        kill(pid, 9); waitpid(pid, 0, 0); close(p[0]); close(go[0]); close(go[1]); close(self);
        for (int g = 3; g < argc; g++) for (int t = 0; rmdir(argv[g]) && t < 1000; t++) usleep(100);
    }
    return 0;
}
"""
    groups = []
    for line in open("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        if kind == "cgroup" and any(c in options.split(",") for c in ["memory", "cpu", "cpuacct", "pids", "devices", "freezer", "blkio"]):
            groups.append(before.split()[4] + "/berth-bench-floor")
    if not groups:
        groups = ["/sys/fs/cgroup/berth-bench-floor"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "floor.c")
        open(path, "w").write(source)
        program = os.path.join(folder, "floor")
        if subprocess.run(["cc", "-O2", "-static", "-o", program, path]).returncode != 0:
            return None
        mount = os.path.join(folder, "m")
        os.mkdir(mount)
        out = subprocess.run([program, str(count), mount] + groups, capture_output=True, text=True)
        figures = [float(line) for line in out.stdout.split()]
        return statistics.median(figures) if figures else None


def table(results):
    """Lines of a table: a column for each engine, a row for each figure that any of them has."""
    rows = []
    for result in results.values():
        rows += [key for key in result if key not in rows]
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for row in rows:
        cells = [f"{results[e][row]:.2f}" if row in results[e] else "" for e in results]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--berth", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--out")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--held", type=int, default=100)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: needs root")
    engines = [("berth", lambda f: Berth(arguments.berth, arguments.image, f))]
    for name, program, make in [("docker", "dockerd", Docker), ("podman", "podman", Podman)]:
        if shutil.which(program):
            engines.append((name, lambda f, make=make: make(arguments.image, f)))
        else:
            print(f"skipped: {name} is not installed (Debian: apt-get install {'docker.io' if name == 'docker' else name})", file=sys.stderr)
    results = {}
    for name, make in engines:
        folder = tempfile.mkdtemp(prefix=f"bench-{name}-", dir="/var/tmp")
        try:
            print(f"measuring {name}", file=sys.stderr)
            engine = make(folder)
            try:
                slow = name != "berth"
                results[name] = measure(engine, arguments.count if not slow else min(arguments.count, 15), [8, 32] if not slow else [8],
                                        arguments.held if not slow else min(arguments.held, 30))
            finally:
                engine.end()
        except Exception as error:
            print(f"{name} could not be measured: {error!r}", file=sys.stderr)
            if name == "berth":
                raise
        finally:
            subprocess.run(["rm", "-rf", folder])
    floor = floor_ms(50)
    lines = table(results)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    versions = []
    for program in ["dockerd", "podman"]:
        if shutil.which(program):
            versions.append(subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip())
    text = "\n".join([
        "# Benchmarks", "",
        f"`make bench`, {time.strftime('%Y-%m-%d')}, on {os.cpu_count()} cores of {cpu} in a virtual machine, Linux {platform.release()}, "
        f"{round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30)} GiB, cgroup v1. " + "; ".join(versions) + ".", "",
        "Each container has a bridge network with a published port, memory, cpu and pids limits, and runs busybox `sleep`. berth and Docker are",
        "called by HTTP, podman by its command line, which is its only way without a service. A cycle is create, start, stop, remove; its CPU",
        "time is the whole machine's. berth's times include the durable write of what was asked.", "",
        *lines, "",
        f"Floor, by a small C program: clone into the same namespaces, the same cgroups with limits, a tmpfs root, pivot_root and the exec of a static program, without overlay, veth and the mounts of a container: "
        + (f"{floor:.2f} ms." if floor else "could not be measured (no C compiler)."), "",
    ])
    print(text)
    if arguments.out:
        open(arguments.out, "w").write(text)


if __name__ == "__main__":
    main()
