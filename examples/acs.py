#!/usr/bin/env python3
"""A client of the dialect acs in one file, with nothing but Python's own library.

    export BERTH_HOST=http://127.0.0.1:8080 BERTH_ACCESS_KEY=... BERTH_SECRET_KEY=...
    examples/acs.py GET node
    examples/acs.py POST node/1/uploadStart url=http://127.0.0.1:9000/app.zip method=SEQUENTIAL update=true

Without the two keys it reads the administrator's from admin.json in BERTH_DATA_DIR. A command is followed to its end.
"""
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


def plain(text):
    """As names and values are signed: no two parameters can be read from one."""
    return text.replace("%", "%25").replace("&", "%26").replace("=", "%3D").replace("\n", "%0A")


class Acs:
    def __init__(self, host, access_key, secret_key):
        self.host, self.access_key, self.secret_key = host.rstrip("/"), access_key, secret_key

    def signed(self, method, parameters):
        """The query: parameters sorted by name, the method in front of them when they are signed."""
        everything = dict(parameters, accesskey=self.access_key, timestamp=str(int(time.time() * 1000)))
        if method != "GET":
            everything["nonce"] = secrets.token_hex(8)  # a signature of a change is good for one path
        text = "&".join(f"{plain(name)}={plain(value)}" for name, value in sorted(everything.items()))
        key, message = self.secret_key.encode(), f"{method}\n{text}".encode()
        everything["signature"] = hmac.new(key, message, hashlib.sha256).hexdigest()
        return urllib.parse.urlencode(everything)

    def call(self, method, path, **parameters):
        """Data of the answer; raises RuntimeError with the server's words."""
        request = urllib.request.Request(f"{self.host}/api/v1/{path}?{self.signed(method, parameters)}", method=method)
        try:
            answer = json.load(urllib.request.urlopen(request))
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        if answer["code"] != "0":
            raise RuntimeError(f"{answer['code']}: {answer['message']}")
        return answer["data"]

    def wait(self, command):
        """The command when it is over."""
        while command["status"] not in ("DONE", "PUBLISH_FAILED"):
            time.sleep(0.2)
            command = self.call("GET", f"command/{command['commandId']}")
        return command


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    access_key, secret_key = os.environ.get("BERTH_ACCESS_KEY"), os.environ.get("BERTH_SECRET_KEY")
    if not access_key:
        folder = os.environ.get("BERTH_DATA_DIR", "/var/lib/berth")
        admin = json.load(open(os.path.join(folder, "admin.json")))
        access_key, secret_key = admin["access_key"], admin["secret_key"]
    client = Acs(os.environ.get("BERTH_HOST", "http://127.0.0.1:8080"), access_key, secret_key)
    method, path = sys.argv[1].upper(), sys.argv[2]
    data = client.call(method, path, **dict(argument.split("=", 1) for argument in sys.argv[3:]))
    if method != "GET":
        data = client.wait(data)
    print(json.dumps(data, ensure_ascii=False, indent=2))
    if method != "GET" and data["result"] != "200":
        sys.exit(1)


if __name__ == "__main__":
    main()
