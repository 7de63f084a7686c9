#!/bin/sh
# A client of the dialect acs in shell: needs curl and openssl. Values of parameters go as they are; encode what a URL can't hold.
#
#   export BERTH_HOST=http://127.0.0.1:8080 BERTH_ACCESS_KEY=... BERTH_SECRET_KEY=...
#   examples/acs.sh GET node
#   examples/acs.sh POST node/1/start method=SEQUENTIAL
set -eu
[ $# -ge 2 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
host=${BERTH_HOST:-http://127.0.0.1:8080} method=$1 path=$2
shift 2
parameters=$(printf '%s\n' "$@" "accesskey=$BERTH_ACCESS_KEY" "timestamp=$(date +%s%3N)" |
    sed '/^$/d' | LC_ALL=C sort -t= -k1,1 | paste -sd '&' -)
signature=$(printf '%s\n%s' "$method" "$parameters" |
    openssl dgst -sha256 -hmac "$BERTH_SECRET_KEY" | sed 's/^.* //')
exec curl -sS -X "$method" "$host/api/v1/$path?$parameters&signature=$signature"
