#!/usr/bin/env python3
"""A client of the dialect comb, and with it the whole life of a container. Needs requests (Debian: python3-requests).

    export BERTH_HOST=http://127.0.0.1:8080 BERTH_ACCESS_KEY=... BERTH_SECRET_KEY=...
    examples/comb.py IMAGE                  # the name of an image that `berth images` shows, such as busybox
    examples/comb.py IMAGE --login          # and logs in by SSH meanwhile, with ssh and the server's name as in BERTH_HOST

Without the two keys it reads the administrator's from admin.json in BERTH_DATA_DIR.
"""
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
import urllib.parse

import requests


class Comb:
    """The cloud's API: what goes wrong is a RuntimeError with the server's code and words."""

    def __init__(self, host, app_key, app_secret):
        self.base, self.session = host.rstrip("/") + "/api/v1", requests.Session()
        answer = self.call("POST", "/token", json={"app_key": app_key, "app_secret": app_secret})
        # A string, as the cloud had it; int() takes either.
        self.expires_at = time.time() + int(answer["expires_in"])
        self.session.headers["Authorization"] = "Token " + answer["token"]

    def call(self, method, path, **more):
        answer = self.session.request(method, self.base + path, timeout=60, **more)
        if not answer.ok:
            error = answer.json()
            raise RuntimeError(f"{error['code']}: {error['message']} (Request-Id {answer.headers['Request-Id']})")
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.json() if is_json else answer.text

    def image(self, name, tag="latest"):
        """Type and number of an image: an official one, or one of one's own."""
        all_images = self.call("GET", "/containers/images")
        for kind, images in ((1, all_images["public_images"]), (2, all_images["custom_images"])):
            for image in images:
                if (image["name"], image["tag"]) == (name, tag):
                    return {"image_type": kind, "image_id": image["id"]}
        raise SystemExit(f"there is no image {name}:{tag}")

    def settled(self, number):
        """The container when nothing is being done to it any more; None when it is gone."""
        while True:
            try:
                container = self.call("GET", f"/containers/{number}")
            except RuntimeError as error:
                if str(error).startswith("4040002"):
                    return None
                raise
            if not container["status"].endswith("ing"):
                return container
            time.sleep(0.02)


def log_in(host, number, key, command):
    """What a command says that is run in the container by SSH, on the port that the native API tells."""
    folder = os.environ.get("BERTH_DATA_DIR", "/var/lib/berth")
    token = json.load(open(os.path.join(folder, "admin.json")))["token"]
    listed = requests.get(host + "/v1/containers", headers={"X-Token": token}, timeout=60).json()["items"]
    ports = next(container for container in listed if container["number"] == number)["ports"]
    port = next(port["host_port"] for port in ports if port["container_port"] == 22)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        os.chmod(file.name, stat.S_IRUSR)
        file.write(key)
        file.flush()
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-F", "none"]
        line = ["ssh", "-i", file.name, *options, "-p", str(port), "root@" + urllib.parse.urlsplit(host).hostname, command]
        return subprocess.run(line, stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def life(cloud, host, image, login):
    name = "example-%d" % os.getpid()
    key = cloud.call("POST", "/secret-keys", json={"key_name": name})
    private = cloud.call("GET", f"/secret-keys/{key['id']}")
    print(f"key {key['id']} {key['fingerprint']}, {len(private.splitlines())} lines")
    new = {
        "charge_type": 2, "spec_id": 1, "name": name, "desc": "an example", "ssh_key_ids": [key["id"]],
        "env_var": {"GREETING": "你好"}, "use_public_network": 1, "network_charge_type": 1, "bandwidth": 100, **image,
    }
    begun = time.time()
    number = cloud.call("POST", "/containers", json=new)["id"]
    container = cloud.settled(number)
    print(f"container {number}: {container['status']} after {(time.time() - begun) * 1000:.0f} ms, {container['private_ip']}")
    assert container["status"] == "create_succ", container
    if login:
        print("by SSH:", log_in(host, number, private, "echo $GREETING from $(hostname)"))
    cloud.call("PUT", f"/containers/{number}", json={"bandwidth": 10, "desc": "narrower"})
    container = cloud.settled(number)
    print(f"{container['status']}: {container['bandwidth']} Mbit/s, {container['desc']}")
    assert (container["status"], container["bandwidth"]) == ("update_succ", 10), container
    cloud.call("PUT", f"/containers/{number}/actions/restart")
    made = cloud.call("POST", f"/containers/{number}/tag", json={"repo_name": name, "tag": "1.0"})
    print("saved as image", made["image_id"])
    flow = cloud.call("GET", f"/containers/{number}/flow", params={"from_time": -1, "to_time": -1})
    print("traffic:", flow["container_up_flow"], "up,", flow["container_down_flow"], "down")
    page = cloud.call("GET", "/containers", params={"limit": 30, "offset": 0})
    print(f"{page['total']} containers, {len(page['containers'])} on the first page")
    cloud.call("DELETE", f"/containers/{number}")
    assert cloud.settled(number) is None
    cloud.call("DELETE", f"/secret-keys/{key['id']}")
    print("all is gone")


def main():
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if len(arguments) != 1:
        sys.exit(__doc__)
    host = os.environ.get("BERTH_HOST", "http://127.0.0.1:8080").rstrip("/")
    app_key, app_secret = os.environ.get("BERTH_ACCESS_KEY"), os.environ.get("BERTH_SECRET_KEY")
    if not app_key:
        folder = os.environ.get("BERTH_DATA_DIR", "/var/lib/berth")
        admin = json.load(open(os.path.join(folder, "admin.json")))
        app_key, app_secret = admin["access_key"], admin["secret_key"]
    cloud = Comb(host, app_key, app_secret)
    name, _, tag = arguments[0].partition(":")
    life(cloud, host, cloud.image(name, tag or "latest"), "--login" in sys.argv)


if __name__ == "__main__":
    main()
