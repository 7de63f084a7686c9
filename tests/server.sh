# Sourced: a server of $program in a folder of its own, which goes with the script. Sets data, port, token and server.
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
