#!/bin/sh
# conformance.sh PROGRAM FOLDER: the suite of the OCI distribution specification, built in FOLDER, against a server of its own.
set -eu
program=$(readlink -f "$1")
mkdir -p "$2"
cd "$2"
suite=github.com/opencontainers/distribution-spec/conformance
if [ ! -x conformance ]; then
    [ -e go.mod ] || go mod init conformance >/dev/null 2>&1
    go get $suite@v0.0.0-20260831232431-97274622c111 >/dev/null
    go build -o conformance $suite
fi
data=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
BERTH_LOG=error "$program" --data-dir "$data" serve --listen "127.0.0.1:$port" >"$data/log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; "$program" --data-dir "$data" uninstall --force >/dev/null 2>&1; rm -rf "$data"' EXIT
until [ -e "$data/server.json" ]; do
    kill -0 $server || { cat "$data/log" >&2; exit 1; }
    sleep 0.1
done
OCI_PASSWORD=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["token"])' "$data/admin.json")
export OCI_PASSWORD OCI_USERNAME=berth OCI_REGISTRY="127.0.0.1:$port" OCI_TLS=disabled OCI_API_BLOBS_UPLOAD_CANCEL=true \
    OCI_API_BLOBS_DIGEST_HEADER=true OCI_API_MANIFESTS_DIGEST_HEADER=true
./conformance >out || { cat out >&2; exit 1; }
sed -n '/OCI Conformance Result/,/Total/p' out
