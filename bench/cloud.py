#!/usr/bin/env python3
"""The dialect comb: from the request to `create_succ`, logins, a bandwidth that is changed while it is used, and traffic against
a known generator. Appends a Markdown table.
"""
import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from bench import Berth
from daily import QUIET, SINK, paced, rate_in, rate_out
from services import percentile


class Cloud:
    def __init__(self, berth):
        self.berth = berth

    def call(self, method, path, body=None):
        status, text = self.berth.call(method, "/api/v1" + path, None if body is None else json.dumps(body))
        assert status < 300, (method, path, status, text)
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def image(self, name):
        images = self.call("GET", "/containers/images")["custom_images"]
        return next(image["id"] for image in images if image["name"] == name)

    def settled(self, number):
        while (found := self.call("GET", f"/containers/{number}"))["status"].endswith("ing"):
            time.sleep(0.001)
        return found

    def gone(self, number):
        while self.berth.call("GET", f"/api/v1/containers/{number}")[0] != 404:
            time.sleep(0.002)

    def create(self, **more):
        payload = {"charge_type": 2, "spec_id": 1, "image_type": 2, "desc": "", "env_var": {"key": "value"},
                   "use_public_network": 1, "network_charge_type": 1, "bandwidth": 100, **more}
        begun = time.perf_counter()
        number = self.call("POST", "/containers", payload)["id"]
        found = self.settled(number)
        assert found["status"] == "create_succ", found
        return found, (time.perf_counter() - begun) * 1000


def lives(cloud, image, count, **more):
    """Milliseconds from the request to `create_succ`, and from the deletion to 404."""
    made, gone = [], []
    for number in range(count):
        found, elapsed = cloud.create(name=f"life{number}", image_id=image, **more)
        made.append(elapsed)
        begun = time.perf_counter()
        cloud.call("DELETE", f"/containers/{found['id']}")
        cloud.gone(found["id"])
        gone.append((time.perf_counter() - begun) * 1000)
    return made, gone


def logins(cloud, berth, cli, image, folder, count):
    """Milliseconds for a whole login by OpenSSH's client that runs `true`."""
    key = cloud.call("POST", "/secret-keys", {"key_name": "bench"})["id"]
    path = os.path.join(folder, "key")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(cloud.call("GET", f"/secret-keys/{key}"))
    found, elapsed = cloud.create(name="login", image_id=image, ssh_key_ids=[key])
    shown = json.loads(subprocess.run(cli + ["inspect", "login"], check=True, capture_output=True).stdout)[0]
    port = next(port["host_port"] for port in shown["ports"] if port["container_port"] == 22)
    line = ["ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
            "-o", "LogLevel=ERROR", "-i", path, "-p", str(port), "root@127.0.0.1", "true"]
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        subprocess.run(line, check=True, **QUIET)
        times.append((time.perf_counter() - begun) * 1000)
    cloud.call("DELETE", f"/containers/{found['id']}")
    cloud.gone(found["id"])
    return times


def network(cloud, berth, cli, python_image):
    """Of the cap: in and out, for several bandwidths; of the bytes sent: in and out."""
    subprocess.run(cli + ["import", python_image, "bench-python"], check=True, **QUIET)
    subprocess.run(cli + ["create", "--name", "base", "bench-python", "python3", "-c", SINK], check=True, **QUIET)
    subprocess.run(cli + ["commit", "base", "sink"], check=True, **QUIET)
    found, _ = cloud.create(name="cap", image_id=cloud.image("sink"))
    number, address = found["id"], found["private_ip"]
    time.sleep(1)
    shares = {}
    for mbit in (10, 1, 100):
        cloud.call("PUT", f"/containers/{number}", {"bandwidth": mbit})
        assert cloud.settled(number)["status"] == "update_succ"
        bits = mbit * 1e6
        shares[mbit] = (rate_in(cli, address, bits, 5, 2) / bits, rate_out(address, bits, 5, 2) / bits)
        print(mbit, shares[mbit], file=sys.stderr)

    def counted():
        usage = json.loads(berth.call("GET", "/v1/usage")[1])["items"]
        return next((u["rx_bytes"], u["tx_bytes"]) for u in usage if u["number"] == number)

    count, exact = 50_000, 50_000 * 1028
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        udp.settimeout(2)
        time.sleep(2)
        before, began = counted(), int(time.time() * 1000)
        # Below the cap: what the cap drops was never received.
        paced(udp, (address, 7004), count, 8_000)
        time.sleep(0.3)
        between = counted()
        flow = cloud.call("GET", f"/containers/{number}/flow?from_time={began}")
        udp.sendto(b"send %d 8000" % count, (address, 7003))
        for _ in range(count):
            udp.recv(2000)
        after = counted()
    errors = ((between[0] - before[0]) / exact - 1, (after[1] - between[1]) / exact - 1)
    cloud.call("DELETE", f"/containers/{number}")
    cloud.gone(number)
    return shares, errors, flow["container_down_flow"], exact


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--berth", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        settings = os.path.join(folder, "berth.toml")
        with open(settings, "w") as file:
            file.write("[core]\nrequests_per_s = 0\naccount_requests_per_s = 0\n")
        berth = Berth(asked.berth, asked.image, folder, settings)
        cli = [asked.berth, "--data-dir", berth.data]
        try:
            cloud = Cloud(berth)
            subprocess.run(cli + ["create", "--name", "base0", "bench", "sleep", "600"], check=True, **QUIET)
            subprocess.run(cli + ["commit", "base0", "sleeper"], check=True, **QUIET)
            image = cloud.image("sleeper")
            made, gone = lives(cloud, image, 200)
            login = logins(cloud, berth, cli, image, folder, 30)
            shares, errors, flow, exact = network(cloud, berth, cli, asked.python)
        finally:
            berth.end()
    two = lambda values: f"{statistics.median(values):.1f}, {percentile(values, 95):.1f}"
    rows = [
        ["from `POST /api/v1/containers` to `create_succ`, ms: median, p95", two(made), "median < 100"],
        ["from `DELETE` to 404, ms: median, p95", two(gone), ""],
        ["a login by `ssh` that runs `true`, ms: median, p95", two(login), ""],
    ]
    for mbit, (into, out) in sorted(shares.items()):
        rows.append([f"bandwidth {mbit}, changed while it runs: in, out, of the cap", f"{into:.3f}, {out:.3f}", "within 5 %"])
    rows.append(["50,000 datagrams each way, counted against sent: in, out", f"{errors[0] * 100:+.4f} %, {errors[1] * 100:+.4f} %", "0.1 %"])
    rows.append([f"the same in by `flow` ({exact / 1e6:.1f} MB sent)", flow, ""])
    lines = ["| | berth | target |", "|---|---|---|"] + [f"| {' | '.join(row)} |" for row in rows]
    text = "\n## The dialect `comb`\n\nWritten by `bench/cloud.py`.\n\n" + "\n".join(lines) + "\n"
    print(text)
    if asked.out:
        with open(asked.out, "a") as out:
            out.write(text)


if __name__ == "__main__":
    main()
