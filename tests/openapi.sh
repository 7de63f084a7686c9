#!/bin/sh
# openapi.sh PROGRAM SCHEMATHESIS: a server of its own, and requests of every kind that its description allows and of some that it does
# not. Every answer must have a status and a form that are described.
set -eu
program=$(readlink -f "$1") schemathesis=$(readlink -f "$2")
if [ "$(id -u)" != 0 ]; then
    echo "openapi.sh: not run: a server needs root" >&2
    [ -z "${BERTH_TESTS_REQUIRE_ALL:-}" ]
    exit
fi
data=$(mktemp -d)
# A port that was free a moment ago.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
BERTH_LOG=error "$program" --data-dir "$data" serve --listen "127.0.0.1:$port" >"$data/log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; "$program" --data-dir "$data" uninstall --force >/dev/null 2>&1; rm -rf "$data"' EXIT
until [ -e "$data/server.json" ]; do
    kill -0 $server || { cat "$data/log" >&2; exit 1; }
    sleep 0.1
done
token=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["token"])' "$data/admin.json")
# Left out: what never ends (events, sessions over WebSockets), what would take the token away, and what waits for a registry.
# It leaves a folder where it runs.
cd "$data"
"$schemathesis" run "http://127.0.0.1:$port/openapi.json" --header "Authorization: Bearer $token" --phases coverage --seed 1 \
    --checks status_code_conformance,content_type_conformance,response_schema_conformance \
    --exclude-path-regex '/watch|/events|/attach|/session|/tokens|/images/pull|/images/push|/registries' --request-timeout 30 \
    --no-color --suppress-health-check all >"$data/out" 2>&1 || { cat "$data/out" >&2; exit 1; }
sed -n '/Test cases:/,$p' "$data/out"
