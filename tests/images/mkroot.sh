#!/bin/sh
# mkroot.sh NAME OUT.tar       NAME: busybox python node php java go dropbear
#
# Makes a small root file system tarball out of Debian packages without running
# any maintainer script.  Needs root, apt, dpkg-deb, GNU tar, flock.  Mounts
# nothing and leaves the host's apt and dpkg state alone.
#
# Environment, all optional:
#   CACHE    folder kept between runs, package lists and debs (/var/cache/mkroot)
#   EXTRA    more packages, e.g. EXTRA="procps curl"
#   SOURCES  apt sources file (.list or .sources); default: the host's Debian one
#   WARM     0 = skip what is compiled ahead (python .pyc, go std with CGO_ENABLED=0)
set -eu
umask 022
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

die() { echo "mkroot: $*" >&2; exit 1; }
say() { echo "mkroot: $(date +%T) $name: $*" >&2; }

[ $# -eq 2 ] || die "usage: mkroot.sh busybox|python|node|php|java|go|dropbear OUT.tar"
[ "$(id -u)" = 0 ] || die "must be root (file owners, chroot)"
name=$1 out=$2 extra=${EXTRA:-} warm=${WARM:-1}

base="dash coreutils base-files libc-bin grep sed"
case $name in
  busybox) pkgs="busybox-static" ;;
  python)  pkgs="$base python3" ;;
  node)    pkgs="$base nodejs" ;;
  php)     pkgs="$base php-cli" ;;
  java)    pkgs="$base default-jre-headless" ;;
  go)      pkgs="$base golang-go" ;;
  dropbear) pkgs="$base dropbear-bin" ;;
  *)       die "unknown image: $name" ;;
esac

# Dependencies of no use here: they serve maintainer scripts, or (java) sound,
# fonts, printing, smart cards, trust stores.  A package named in EXTRA is kept,
# and with EXTRA set java keeps all its dependencies.
unwanted() {
  case $1 in
    dpkg|tar|debconf|ucf|sensible-utils|psmisc|gcc-*-base) return 0 ;;
  esac
  [ "$name" = java ] && [ -z "$extra" ] && case $1 in
    openjdk-*|default-jre-*|java-common|zlib1g|libstdc++6|libgcc-s1|libc6|libc-bin) ;;
    dash|coreutils|base-files|grep|sed|mawk|debianutils) ;;
    libacl1|libattr1|libgmp10|libselinux1|libpcre2-8-0) ;;
    libssl3t64|libzstd1|libsystemd0|libcap2) ;;     # coreutils of Debian 13
    *) return 0 ;;
  esac
  return 1
}

# ---- folders
mkdir -p "$(dirname "$out")" "${CACHE:=/var/cache/mkroot}"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
cache=$(cd "$CACHE" && pwd)
mkdir -p "$cache/lists/partial" "$cache/debs"
work=$(mktemp -d "${TMPDIR:-/tmp}/mkroot.XXXXXX")
trap 'rm -rf "$work" "$out.part.$$"' EXIT
trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
root=$work/root
mkdir -p "$root" "$work/archives/partial"
: >"$work/status"                                   # "nothing is installed"

# ---- apt, kept apart from the host's
src=${SOURCES:-}
if [ -z "$src" ]; then
  for src in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    [ ! -s "$src" ] || break
  done
fi
# apt.conf.d of the host is still read (proxy settings), but its hooks are not run.
cat >"$work/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "$work";
Dir::State::lists "$cache/lists";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Cache::archives "$work/archives";
Dir::Etc::sourcelist "$src";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Debug::NoLocking "true";
END
apt_() { apt-get -c "$work/apt.conf" -qq "$@"; }

# Writes $work/debs ("package file" lines) and gets what the cache lacks.
fetch() {
  # The archives folder is empty, so --print-uris lists every file.
  # shellcheck disable=SC2086
  apt_ --print-uris -y install $pkgs $extra >"$work/uris" || return 1
  need=
  : >"$work/debs"
  while read -r _ file size _; do
    p=${file%%_*}
    case " $extra " in *" $p "*) ;; *) ! unwanted "$p" || continue ;; esac
    echo "$p $file" >>"$work/debs"
    [ "$(stat -c %s "$cache/debs/$file" 2>/dev/null)" = "$size" ] || need="$need $p"
  done <"$work/uris"
  [ -s "$work/debs" ] || return 1
  [ -n "$need" ] || return 0
  # `download` takes the named packages alone, checks their hashes, writes to $PWD.
  # shellcheck disable=SC2086
  mkdir -p "$work/new" && (cd "$work/new" && apt_ download $need) || return 1
  mv "$work/new"/*.deb "$cache/debs/"
}

# One download at a time per cache.  Known lists are used as they are, and
# refreshed when absent or when the mirror no longer has what they name.
exec 9>"$cache/lock"
flock 9
say "resolving, downloading"
if ! fetch 2>"$work/err"; then
  say "refreshing package lists"
  apt_ update || die "apt-get update failed"
  fetch || die "cannot fetch packages"
fi
exec 9>&-

# ---- unpack
# The merged-/usr links come first, so that /bin and /usr/bin meet.
for d in bin sbin lib lib64; do
  mkdir -p "$root/usr/$d"
  ln -s "usr/$d" "$root/$d"
done
# Never wanted: documentation, tests, parts of the Go tree that no build reads.
cat >"$work/exclude" <<'END'
./usr/share/doc
./usr/share/doc-base
./usr/share/man
./usr/share/info
./usr/share/locale
./usr/share/lintian
./usr/share/bug
./usr/share/common-licenses
./usr/share/initramfs-tools
./etc/cron.d
./usr/lib/jvm/*/lib/ct.sym
./usr/share/go-*/test
./usr/share/go-*/api
./usr/share/go-*/misc
./usr/share/go-*/src/cmd
./usr/share/go-*/src/*_test.go
./usr/share/go-*/src/*/testdata
./usr/share/go-*/src/crypto/internal/boring/syso/*.syso
./usr/lib/go-*/api
./usr/lib/go-*/misc
./usr/lib/go-*/pkg/linux_*/cmd
./usr/lib/go-*/pkg/tool/*/addr2line
./usr/lib/go-*/pkg/tool/*/api
./usr/lib/go-*/pkg/tool/*/dist
./usr/lib/go-*/pkg/tool/*/doc
./usr/lib/go-*/pkg/tool/*/fix
./usr/lib/go-*/pkg/tool/*/nm
./usr/lib/go-*/pkg/tool/*/objdump
./usr/lib/go-*/pkg/tool/*/pprof
./usr/lib/go-*/pkg/tool/*/trace
END
# glibc's charset tables: only PHP's iconv would use them
[ "$name" = php ] || echo './usr/lib/*/gconv' >>"$work/exclude"

say "unpacking $(wc -l <"$work/debs") packages"
while read -r _ file; do
  dpkg-deb --fsys-tarfile "$cache/debs/$file" |
    tar -x -C "$root" --keep-directory-symlink --numeric-owner \
      -X "$work/exclude" -f - ||
    die "cannot unpack $file (delete it from $cache/debs and try again)"
done <"$work/debs"
# Newest packaged file: the latest date in the tarball (same debs, same tarball).
stamp=$(find "$root" -type f -printf '%T@\n' | sort -n | tail -n 1)

# ---- what the maintainer scripts would have done
link() { [ -e "$root/$2" ] || [ -L "$root/$2" ] || ln -s "$1" "$root/$2"; }   # link TARGET PATH

for d in dev proc sys run etc root home var var/log opt usr/local/bin; do
  mkdir -p "$root/$d"
done
mkdir -p "$root/tmp" "$root/var/tmp"
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 700 "$root/root"
link /run var/run
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
app:x:1000:1000:app:/home:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
END
cat >"$root/etc/group" <<'END'
root:x:0:
daemon:x:1:
tty:x:5:
www-data:x:33:
app:x:1000:
nogroup:x:65534:
END
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
: >"$root/etc/resolv.conf"

# A command in the new root, with a plain file as /dev/null: no mount, no device.
inside() {
  : >"$root/dev/null"
  rc=0
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/tmp/warm \
    GOCACHE=/tmp/warm/go CGO_ENABLED=0 GOPROXY=off "$@" </dev/null >&2 || rc=$?
  rm -rf "$root/dev/null" "$root/tmp/warm"
  return $rc
}

case $name in
busybox)
  link usr/bin/busybox bin/busybox
  "$root/usr/bin/busybox" --list-full >"$work/applets"
  while read -r a; do
    case $a in
      usr/*) ;;
      linuxrc) continue ;;
      *) a=usr/$a ;;
    esac
    mkdir -p "$root/${a%/*}"
    case $a in
      usr/bin/*) link busybox "$a" ;;
      *) link ../bin/busybox "$a" ;;
    esac
  done <"$work/applets" ;;
python)
  link python3 usr/bin/python
  if [ "$warm" != 0 ]; then
    say "compiling .pyc files"
    # unchecked-hash: stays valid whatever becomes of file dates
    # (sh: the * is for the files of the new root, not the host's)
    inside sh -c 'python3 -m compileall -q --invalidation-mode unchecked-hash \
      /usr/lib/python3*' || say "WARNING: compileall failed"
  fi ;;
php)
  for d in "$root"/etc/php/*; do
    v=${d##*/}
    link "php$v" usr/bin/php
    link "phar$v" usr/bin/phar
    cp "$root/usr/lib/php/$v/php.ini-production.cli" "$d/cli/php.ini"
    mkdir -p "$d/mods-available" "$d/cli/conf.d"
    for ini in "$root/usr/share/php$v"-*/*/*.ini; do
      m=$(basename "$ini" .ini)
      prio=$(sed -n 's/^; *priority=//p' "$ini")
      cp "$ini" "$d/mods-available/"
      link "/etc/php/$v/mods-available/$m.ini" "etc/php/$v/cli/conf.d/${prio:-20}-$m.ini"
    done
  done ;;
java)
  for b in "$root"/usr/lib/jvm/default-java/bin/*; do
    link "../lib/jvm/default-java/bin/${b##*/}" "usr/bin/${b##*/}"
  done ;;
dropbear)
  mkdir -p "$root/etc/dropbear" ;;                  # where -R puts host keys
go)
  # Settings go reads on its own when HOME=/root.
  mkdir -p "$root/root/.config/go"
  printf 'CGO_ENABLED=0\nGOPROXY=off\nGOSUMDB=off\n' >"$root/root/.config/go/env"
  if [ "$warm" != 0 ]; then
    # The packaged std was built with cgo (Debian 12) or is absent (13): the first
    # `go build` in each container would build net and all above it.  Do it once,
    # into GOROOT/pkg; or for Go >= 1.20, which ignores that, into a build cache.
    say "building std with CGO_ENABLED=0"
    for d in "$root"/usr/lib/go-*; do
      g=/usr/lib/${d##*/}                           # named, as there is no /proc
      if ls -d "$d"/pkg/linux_* >/dev/null 2>&1; then
        inside env GOROOT="$g" go install std
      else
        echo GOCACHE=/var/cache/go-build >>"$root/root/.config/go/env"
        inside env GOROOT="$g" GOCACHE=/var/cache/go-build go build net/http encoding/json
      fi || say "WARNING: building std failed"
    done
  fi ;;
esac

# Alternatives that any image may need
[ ! -e "$root/usr/bin/mawk" ] || link mawk usr/bin/awk
[ ! -e "$root/usr/bin/which.debianutils" ] || link which.debianutils usr/bin/which
[ ! -e "$root/usr/bin/dash" ] || link dash usr/bin/sh
if [ -e "$root/etc/ld.so.conf" ]; then
  ldconfig -r "$root"
  rm -rf "$root/var/cache/ldconfig"                 # holds inode numbers and dates
fi

# ---- pack
say "packing $(du -sm "$root" | cut -f1) MB"
tar -c -C "$root" --sort=name --numeric-owner --format=gnu \
  --mtime="@${stamp%%.*}" --clamp-mtime -f "$out.part.$$" .
mv "$out.part.$$" "$out"
say "done: $out, $(($(stat -c %s "$out") / 1048576)) MB"
