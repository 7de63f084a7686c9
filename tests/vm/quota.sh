#!/bin/sh
# quota.sh BERTH: on a file system with project quotas a container is held to its disk limit by the kernel, and runs on.
set -eu
berth=$1
fail() {
    echo "FAILED: $*"
    tail -20 /mnt/quota/log
    exit 1
}
truncate -s 300M /var/quota.img
mkfs.ext4 -q -m 0 -O quota,project /var/quota.img
mkdir -p /mnt/quota
mount -o loop,prjquota /var/quota.img /mnt/quota
export TERM=dumb BERTH_DATA_DIR=/mnt/quota/data
printf '[images]\ndisk_reserve_mib = 1\n' >/mnt/quota/berth.toml
BERTH_LOG=warn "$berth" serve --config /mnt/quota/berth.toml --listen 127.0.0.1:8099 >/mnt/quota/log 2>&1 &
server=$!
until "$berth" ps >/dev/null 2>&1; do
    kill -0 $server || fail "the server ended"
    sleep 0.2
done
"$berth" import --cmd sh /job/busybox.tar busybox >/dev/null 2>&1
write='dd if=/dev/zero of=/big bs=64k count=400; echo ended with $?; ls -s /big; mkdir /d && : > /d/f; echo more: $?; sleep 9999'
for name in one two; do
    "$berth" run -d --name $name --storage-opt size=8m busybox sh -c "$write" >/dev/null
done
"$berth" run -d --name free busybox sh -c "dd if=/dev/zero of=/big bs=64k count=400; echo ended with \$?; sleep 9999" >/dev/null
for name in one two free; do
    until "$berth" logs $name 2>&1 | grep -q 'ended with'; do sleep 0.2; done
done
"$berth" logs free 2>&1 | grep -q 'ended with 0' || fail "without a limit: $("$berth" logs free 2>&1)"
# Longer than the measuring takes that stops a writer elsewhere.
sleep 5
for name in one two; do
    said=$("$berth" logs $name 2>&1)
    echo "$said" | grep -q -e 'Disk quota exceeded' -e 'No space left' || fail "$name: $said"
    written=$(echo "$said" | awk '/ \/big$/ {print $1}')
    { [ "$written" -gt 7000 ] && [ "$written" -le 8192 ]; } || fail "$name has written $written KiB of 8192"
    [ "$("$berth" inspect -f '{{.State.Status}}' $name)" = running ] || fail "$name does not run"
done
# Full, it is started again; what is removed in it is free again.
"$berth" restart -t 0 one >/dev/null || fail "a full container is not started again"
"$berth" exec two rm /big
"$berth" exec two sh -c 'dd if=/dev/zero of=/again bs=64k count=64' || fail "what was removed is not given back"
# The number of a project is no bound of whoever comes next.
"$berth" rm -f one two free >/dev/null
"$berth" run --rm --storage-opt size=16m busybox dd if=/dev/zero of=/big bs=64k count=200 || fail "a new one has not all of its limit"
kill $server
wait $server || true
"$berth" uninstall --force >/dev/null 2>&1 || true
umount /mnt/quota || umount -l /mnt/quota
echo "quota: good"
