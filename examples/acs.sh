#!/bin/sh
# A client of the dialect acs in shell: needs curl and openssl. Values of parameters go as they are: none may hold %, &, = or what a
# URL can't hold (examples/acs.py encodes them).
#
#   export BERTH_HOST=http://127.0.0.1:8080 BERTH_ACCESS_KEY=... BERTH_SECRET_KEY=...
#   examples/acs.sh GET node
#   examples/acs.sh POST node/1/start method=SEQUENTIAL
set -eu
[ $# -ge 2 ] || { sed -n '2,7p' "$0" >&2; exit 2; }
host=${BERTH_HOST:-http://127.0.0.1:8080} method=$1 path=$2
shift 2
# A signature of a change is good for one path, so that two changes of one moment need something that tells them apart.
[ "$method" = GET ] || set -- "$@" "nonce=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')"
parameters=$(printf '%s\n' "$@" "accesskey=$BERTH_ACCESS_KEY" "timestamp=$(date +%s%3N)" |
    sed '/^$/d' | LC_ALL=C sort -t= -k1,1 | paste -sd '&' -)
signature=$(printf '%s\n%s' "$method" "$parameters" |
    openssl dgst -sha256 -hmac "$BERTH_SECRET_KEY" | sed 's/^.* //')
exec curl -sS -X "$method" "$host/api/v1/$path?$parameters&signature=$signature"
