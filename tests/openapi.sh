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
. "$(dirname "$(readlink -f "$0")")/server.sh"
# It leaves a folder where it runs.
cd "$data"
conform() { # DOCUMENT [OPTION...]
    document=$1
    shift
    "$schemathesis" run "http://127.0.0.1:$port/$document" --header "Authorization: Bearer $token" --header "X-Token: $token" --phases coverage --seed 1 \
        --checks status_code_conformance,content_type_conformance,response_schema_conformance --request-timeout 30 \
        --no-color --suppress-health-check all "$@" >"$data/out" 2>&1 || { cat "$data/out" >&2; exit 1; }
    echo "$document: $(sed -n '/Test cases:/{n;s/^ *//p}' "$data/out")"
}
# Left out: what never ends (events, sessions over WebSockets), what would take the token away, and what waits for a registry.
conform openapi.json --exclude-path-regex '/watch|/events|/attach|/session|/tokens|/images/pull|/images/push|/registries'
for dialect in standalone acs comb tingyu; do conform openapi/$dialect.json; done
