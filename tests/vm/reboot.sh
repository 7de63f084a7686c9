#!/bin/sh
# In the guest: berth as an ordinary systemd service over restarts, a clean reboot and a crash. Containers that do not heed SIGTERM
# must hold up neither; traffic totals never go back; an end that nobody saw has no time.
set -eu
b() { /job/berth "$@"; }
fail() {
    echo "FAILED: $*"
    journalctl -u berth --no-pager | tail -40
    exit 1
}
ready() {
    n=0
    until curl -fs http://127.0.0.1:8080/readyz >/dev/null; do
        n=$((n + 1))
        [ $n -lt 600 ] || fail "the server does not answer"
        sleep 0.1
    done
}
total() { b traffic --json "$1" | python3 -c 'import json,sys; t=json.load(sys.stdin); t=t[0] if isinstance(t,list) else t; print(t["rx_bytes"]+t["tx_bytes"])'; }
field() { b inspect "$1" | python3 -c 'import json,sys; c=json.load(sys.stdin); c=c[0] if isinstance(c,list) else c; print(c.get(sys.argv[1]))' "$2"; }
# At least what was told before, of each container.
not_less() {
    for name in kind deaf host; do
        now=$(total $name)
        [ "$now" -ge "$(cat "/var/lib/told-$name")" ] || fail "$1: $name carried $(cat "/var/lib/told-$name") bytes, now $now are told"
    done
}
carry() {
    address=$(field deaf address)
    for n in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -s $((n * 100)) "$address" >/dev/null 2>&1 || busybox ping -c 1 -W 1 "$address" >/dev/null 2>&1 || true; done
    for name in kind deaf host; do total $name >"/var/lib/told-$name"; done
    [ "$(cat /var/lib/told-deaf)" -gt 0 ] || fail "nothing is counted"
}

case $BOOT in
1)
    cat >/etc/systemd/system/berth.service <<'END'
[Unit]
After=network.target
[Service]
ExecStart=/job/berth serve --listen 127.0.0.1:8080
[Install]
WantedBy=multi-user.target
END
    systemctl daemon-reload
    systemctl enable --now berth 2>/dev/null
    ready
    b import /job/busybox.tar busybox >/dev/null 2>&1
    b run -d --name deaf busybox sleep 9999
    b run -d --name kind --restart always busybox sh -c 'trap "exit 0" TERM; while true; do sleep 1 & wait; done'
    b run -d --name host --network host busybox sleep 9999
    b run -d --name still busybox sleep 9999
    b pause still
    carry
    pid=$(field deaf pid)
    began=$(date +%s)
    systemctl restart berth
    took=$(($(date +%s) - began))
    [ $took -lt 60 ] || fail "systemctl restart took $took s"
    ready
    [ "$(field deaf pid)" = "$pid" ] || fail "the restart of the service ended a container"
    not_less "after a restart of the service"
    for n in 1 2 3; do
        carry
        systemctl restart berth
        ready
        not_less "after restart $n of the service"
    done
    carry
    b ps -a
    b doctor || fail "doctor"
    date +%s >/var/lib/went
    exit 194
    ;;
2)
    up=$(cut -d. -f1 /proc/uptime)
    down=$(($(date +%s) - up - $(cat /var/lib/went)))
    echo "the machine went down in $down s"
    [ $down -lt 60 ] || fail "the reboot took $down s"
    ready
    not_less "after a clean reboot"
    # The guest's clock counts whole seconds at boot.
    ended=$(field deaf finished_at)
    seconds=$(date -d "$ended" +%s)
    [ "$seconds" -ge "$(cat /var/lib/went)" ] && [ "$seconds" -le $(($(cat /var/lib/went) + down + 2)) ] ||
        fail "deaf ended at $ended, the machine went at $(cat /var/lib/went) and for $down s"
    n=0
    until [ "$(field kind state)" = running ]; do
        n=$((n + 1))
        [ $n -lt 600 ] || fail "what always runs does not"
        sleep 0.1
    done
    [ "$(field deaf state)" = exited ] || fail "deaf came back"
    b start deaf
    b start host
    carry
    b ps -a
    sync
    date +%s >/var/lib/went
    sync
    echo b >/proc/sysrq-trigger
    sleep 100
    ;;
3)
    ready
    not_less "after a crash of the machine"
    b ps -a
    ended=$(field deaf finished_at)
    [ "$ended" = None ] || [ "$(date -d "$ended" +%s)" -le "$(cat /var/lib/went)" ] ||
        fail "deaf ended at $ended, after the machine"
    [ "$(field deaf exit_code)" = 255 ] || fail "deaf ended with $(field deaf exit_code)"
    b start deaf
    b exec deaf echo here
    b run --rm busybox echo there
    ;;
*) fail "boot $BOOT: the guest crashed" ;;
esac
