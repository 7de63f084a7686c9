#!/bin/sh
# In the guest: a file system with project quotas, then tests of the privileged suites. Each line of the file `suites` is a suite and the names of its tests (none: all).
# The programs lie beside this script; they look for berth and the test images where they were compiled.
set -u
[ "$BOOT" = 1 ] || {
    echo "FAILED: boot $BOOT: the guest crashed"
    exit 1
}
. ./paths
mkdir -p "$(dirname "$BERTH")" "$IMAGES"
ln -sf /job/berth "$BERTH"
for image in /job/*.tar; do ln -sf "$image" "$IMAGES/"; done
export BERTH_TEST_SLOW=8
failed=
./quota.sh "$BERTH" || failed=" quota.sh"
while read -r suite tests; do
    echo "== $suite $tests"
    # shellcheck disable=SC2086
    TERM=dumb "./$suite" --color never --test-threads=1 --exact $tests </dev/null || failed="$failed $suite"
done <suites
[ -z "$failed" ] || echo "FAILED in the guest:$failed"
[ -z "$failed" ]
