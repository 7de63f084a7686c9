#!/bin/sh
# In the guest: berth from its Debian package and from its tarball. Containers run on over restarts, a wrong unit, crashes, a watchdog's
# kill and an upgrade; come back by their policy after a reboot and a power cut; and what is removed is gone.
# The guest is emulated, and one host does it at half the speed of another: times are printed, and a bound is what only a stall takes.
set -eu
fail() {
    echo "FAILED: $*"
    journalctl -u berth --no-pager | tail -40
    exit 1
}
within() { # SECONDS COMMAND…: until it succeeds
    limit=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt $limit ] || fail "not in time: $*"
        sleep 0.2
    done
}
pids() { for name in $(seq -f c%g 20); do pid "$name"; done | tr '\n' ' '; }
pid() { berth inspect "$1" | python3 -c 'import json,sys; print(json.load(sys.stdin)[0].get("pid"))'; }
state() { berth inspect "$1" | python3 -c 'import json,sys; print(json.load(sys.stdin)[0]["state"])'; }
is_running() { [ "$(state "$1")" = running ]; }
same() { # WHEN
    within 60 berth ps
    now=$(pids)
    [ "$now" = "$(cat /var/lib/pids)" ] || fail "$1: containers were ended: $(cat /var/lib/pids), now $now"
    [ "$(curl -s -m 20 http://10.0.2.15:8085/hostname)" = web ] || fail "$1: the published port does not answer"
}
main_pid() { systemctl show -p MainPID --value berth; }
another_pid() { [ "$(main_pid)" != 0 ] && [ "$(main_pid)" != "$1" ] && systemctl is-active --quiet berth; }

case $BOOT in
1)
    began=$(date +%s)
    apt-get install -y ./berth.deb >/job/out/apt.txt 2>&1 || { cat /job/out/apt.txt; fail "the package can't be installed"; }
    systemctl start berth
    berth import --cmd sh /job/busybox.tar busybox >/dev/null 2>&1
    berth run -d --name first busybox sleep 9999
    took=$(($(date +%s) - began))
    echo "from the package to the first container: $took s"
    [ $took -lt 300 ] || fail "from the package to the first container it took $took s"
    berth rm -f first
    [ "$(systemctl is-enabled berth)" = enabled ] || fail "it does not start with the machine"
    berth doctor >/job/out/doctor.txt || fail "doctor: $(cat /job/out/doctor.txt)"
    berth --version

    # Administrators without a token, and everybody else.
    useradd -m -G berth oper
    useradd -m nobody-special
    runuser -u oper -- berth ps >/dev/null || fail "a member of the group may not use berth"
    said=$(runuser -u nobody-special -- berth ps 2>&1) && fail "anybody may use berth"
    echo "$said" | grep -q "group berth" || fail "the refusal does not say what to do: $said"

    berth config check
    echo 'lisen = "x"' >/tmp/wrong.toml
    berth config check --config /tmp/wrong.toml 2>/tmp/said && fail "a wrong key is good"
    grep -q lisen /tmp/said || fail "the wrong key is not named: $(cat /tmp/said)"

    for n in $(seq 20); do
        policy=always
        [ $((n % 3)) != 1 ] || policy=unless-stopped
        [ $((n % 3)) != 2 ] || policy=no
        berth run -d --name c$n --restart $policy busybox sh -c 'trap "" TERM; while true; do sleep 1000; done' >/dev/null
    done
    berth run -d --name web --hostname web --restart always -p 8085:80 busybox sh -c 'hostname > /hostname; exec httpd -f -h /' >/dev/null
    berth stop -t 0 c3 c4 >/dev/null
    berth start c3 >/dev/null
    pids >/var/lib/pids
    within 60 curl -fs http://10.0.2.15:8085/hostname

    began=$(date +%s)
    systemctl restart berth
    took=$(($(date +%s) - began))
    echo "systemctl restart took $took s"
    [ $took -lt 60 ] || fail "systemctl restart took $took s"
    same "after a restart"

    # A setting that takes effect without a restart.
    sed -i 's/^\[core\]$/[core]\npids_limit = 77/' /etc/berth/berth.toml
    before=$(main_pid)
    systemctl reload berth
    berth create --name bounded busybox >/dev/null
    berth inspect bounded | grep -q '"pids": 77' || fail "the reload changed nothing"
    berth rm bounded >/dev/null
    [ "$(main_pid)" = "$before" ] || fail "the reload was a restart"
    echo 'core = 5' >>/etc/berth/berth.toml
    systemctl reload berth 2>/dev/null && fail "wrong settings are reloaded"
    sed -i '$d' /etc/berth/berth.toml
    systemctl is-active --quiet berth || fail "wrong settings end the server"

    # A unit as somebody would write it who knows nothing of this.
    mkdir -p /etc/systemd/system/berth.service.d
    printf '[Service]\nKillMode=control-group\nDelegate=no\n' >/etc/systemd/system/berth.service.d/wrong.conf
    systemctl daemon-reload
    systemctl restart berth
    same "after a restart of a unit that kills its whole cgroup"
    rm -r /etc/systemd/system/berth.service.d

    before=$(main_pid)
    kill -9 "$before"
    within 60 another_pid "$before"
    same "after a crash of the server"

    # A server that hangs is ended by the watchdog.
    mkdir -p /etc/systemd/system/berth.service.d
    printf '[Service]\nWatchdogSec=10\n' >/etc/systemd/system/berth.service.d/short.conf
    systemctl daemon-reload
    systemctl restart berth
    before=$(main_pid)
    kill -STOP "$before"
    within 90 another_pid "$before"
    same "after the watchdog's kill"
    rm -r /etc/systemd/system/berth.service.d
    systemctl daemon-reload

    # An upgrade, while somebody uses a container.
    (while [ ! -e /tmp/enough ]; do curl -fs -m 10 http://10.0.2.15:8085/hostname >/dev/null || echo failed >>/tmp/failed; done) &
    asking=$!
    apt-get install -y ./berth-next.deb >/job/out/apt-next.txt 2>&1 || fail "the upgrade: $(cat /job/out/apt-next.txt)"
    same "after an upgrade of the package"
    touch /tmp/enough
    wait $asking
    [ ! -e /tmp/failed ] || fail "$(wc -l </tmp/failed) requests failed during the upgrade"
    grep -q 'pids_limit = 77' /etc/berth/berth.toml || fail "the upgrade lost the settings"

    berth ps -a
    date +%s >/var/lib/went
    exit 194
    ;;
2)
    up=$(cut -d. -f1 /proc/uptime)
    down=$(($(date +%s) - up - $(cat /var/lib/went)))
    echo "the machine went down in $down s"
    [ $down -lt 60 ] || fail "the clean reboot took $down s"
    within 60 berth ps
    for name in c1 c3 c6 c7; do within 60 is_running $name; done
    for name in c2 c5; do [ "$(state $name)" = exited ] || fail "$name came back"; done
    # unless-stopped, and was stopped.
    [ "$(state c4)" = exited ] || fail "c4 was stopped and came back"
    within 60 curl -fs http://10.0.2.15:8085/hostname
    sync
    echo b >/proc/sysrq-trigger
    sleep 100
    ;;
3)
    within 60 berth ps
    for name in c1 c3 c6 c7 web; do within 60 is_running $name; done
    berth run --rm busybox echo there

    apt-get remove -y berth >/job/out/remove.txt 2>&1 || fail "remove: $(cat /job/out/remove.txt)"
    pgrep -f 'sleep 1000' >/dev/null && fail "containers run without a program that manages them"
    ip link show type bridge | grep -q berth && fail "the bridge is left"
    nft list tables | grep -q berth && fail "rules are left"
    [ -d /var/lib/berth ] || fail "the data went with the program"
    # Here again, it goes on with what was left.
    apt-get install -y ./berth.deb >/job/out/again.txt 2>&1 || fail "again: $(cat /job/out/again.txt)"
    within 60 berth ps
    [ "$(systemctl is-enabled berth)" = enabled ] || fail "after a removal and an installation it is not enabled"
    berth ps -a | grep -q c1 || fail "the records are gone"
    apt-get remove -y berth >/job/out/remove2.txt 2>&1 || fail "remove: $(cat /job/out/remove2.txt)"
    apt-get purge -y berth >/job/out/purge.txt 2>&1 || fail "purge: $(cat /job/out/purge.txt)"
    [ ! -e /var/lib/berth ] && [ ! -e /etc/berth ] || fail "purge left data"

    # What the README says, in both languages, twice on the same machine.
    mkdir /tmp/readme && cp /job/berth.deb /tmp/readme/berth_0.2.0_amd64.deb && cd /tmp/readme
    for page in README.md README.zh-CN.md README.md; do
        python3 - /job/$page >blocks.sh <<'END'
import re, sys
wanted = ("Install", "First container", "安装", "第一个容器")
for part in re.split(r"(?m)^## ", open(sys.argv[1]).read()):
    if part.startswith(wanted):
        for block in re.findall(r"(?ms)^```sh\n(.*?)^```", part):
            print(block)
END
        [ "$(wc -l <blocks.sh)" -gt 8 ] || fail "$page has no blocks"
        bash -e blocks.sh >/job/out/readme.txt 2>&1 || fail "$page: $(cat /job/out/readme.txt)"
        grep -q "Hello from a container" /job/out/readme.txt || fail "$page: $(cat /job/out/readme.txt)"
        [ -z "$(berth ps -aq)" ] || fail "$page leaves containers"
    done
    cd /job

    # What the other pages have an operator type, in both languages on the same machine.
    apt-get install -y ./berth.deb >/dev/null 2>&1
    within 60 berth ps
    echo '127.0.0.1 berth.example' >>/etc/hosts
    berth import --cmd sh /job/busybox.tar busybox >/dev/null 2>&1
    for page in operating.md limits.md troubleshooting.md zh-operating.md zh-limits.md zh-troubleshooting.md; do
        berth run -d --name web -p 8085:80 busybox sleep 9999 >/dev/null
        python3 manual.py $page >/job/out/$page.txt 2>&1 || fail "$page: $(tail -20 /job/out/$page.txt)"
        berth rm -f web >/dev/null
    done
    apt-get purge -y berth >/dev/null 2>&1
    hash -r

    # The tarball.
    mkdir /tmp/tar && tar xzf /job/berth.tar.gz -C /tmp/tar --strip-components=1
    /tmp/tar/berth install
    hash -r
    [ "$(systemctl is-active berth)" = active ] || fail "it does not run"
    berth import --cmd sh /job/busybox.tar busybox >/dev/null 2>&1
    berth run -d --name on --restart always busybox sleep 9999 >/dev/null
    before=$(pid on)
    apt-get install -y ./berth.deb >/tmp/said 2>&1 && fail "the package went over a berth from the tarball"
    grep -q "from a tarball" /tmp/said || fail "the refusal does not say why: $(cat /tmp/said)"
    /tmp/tar/berth install >/dev/null
    within 60 berth ps
    [ "$(pid on)" = "$before" ] || fail "a second install ended a container"
    berth uninstall 2>/tmp/said && fail "uninstalled while containers run"
    grep -q "1 container" /tmp/said || fail "the refusal: $(cat /tmp/said)"
    systemctl is-active --quiet berth || fail "a refused uninstall ended the server"
    /tmp/tar/berth uninstall --force --purge
    for path in /usr/local/bin/berth /etc/systemd/system/berth.service /etc/berth /var/lib/berth /run/berth; do
        [ ! -e $path ] || fail "uninstall left $path"
    done
    pgrep -f 'sleep 9999' >/dev/null && fail "uninstall --force left a container"
    ;;
*) fail "boot $BOOT: the guest crashed" ;;
esac
echo "service: boot $BOOT is good"
