#!/bin/sh
# conformance.sh PROGRAM FOLDER: the suite of the OCI distribution specification, built in FOLDER, against a server of its own.
set -eu
program=$(readlink -f "$1") here=$(dirname "$(readlink -f "$0")")
mkdir -p "$2"
cd "$2"
suite=github.com/opencontainers/distribution-spec/conformance
if [ ! -x conformance ]; then
    [ -e go.mod ] || go mod init conformance >/dev/null 2>&1
    go get $suite@v0.0.0-20260831232431-97274622c111 >/dev/null
    go build -o conformance $suite
fi
. "$here/server.sh"
export OCI_PASSWORD="$token" OCI_USERNAME=berth OCI_REGISTRY="127.0.0.1:$port" OCI_TLS=disabled OCI_API_BLOBS_UPLOAD_CANCEL=true \
    OCI_API_BLOBS_DIGEST_HEADER=true OCI_API_MANIFESTS_DIGEST_HEADER=true
./conformance >out || { cat out >&2; exit 1; }
sed -n '/OCI Conformance Result/,/Total/p' out
