#!/usr/bin/env bash
# The unit tests on 32-bit ARM: a Debian 12 armhf chroot with Debian's numpy, run by qemu-user.
#   run.sh DIR PYTHON [pytest arguments]
# DIR keeps the chroot (400 MB) between runs; PYTHON is a native interpreter with pip, which fetches the wheels.
# MIRROR is Debian's archive, by default the one that apt uses. Needs root, debootstrap and qemu-user-static.
set -euo pipefail
say() { echo "armhf: $*" >&2; }
die() { say "$*"; exit 1; }

dir=${1:?the directory of the chroot} python=${2:?a native Python with pip}
shift 2
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
suite=bookworm
# python3-cffi-backend by name: debootstrap does not follow virtual packages.
packages=python3,python3-numpy,python3-yaml,python3-cffi-backend,python3-zstandard,python3-packaging,tzdata

[ "$(id -u)" = 0 ] || die "building and entering a chroot takes root: run it as root, or with sudo"
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap qemu-user-static"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
root=$dir/root

# Whatever ran before, the kernel must know what to do with an ARM program. Debian's package registers qemu at
# boot or at installation; in a container or a small virtual machine nobody did.
register_qemu() {
  case $(dpkg --print-architecture) in armhf) return ;; esac
  local binfmt=/proc/sys/fs/binfmt_misc
  [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt ||
    die "cannot mount $binfmt: load the kernel module binfmt_misc, or use a machine (not a container) that has it"
  [ -e $binfmt/qemu-arm ] && return
  local conf=/usr/lib/binfmt.d/qemu-arm.conf
  [ -e $conf ] || die "$conf is missing: apt-get install qemu-user-static"
  say "telling the kernel to run ARM programs by qemu ($binfmt/qemu-arm)"
  grep '^:' $conf >$binfmt/register
}

# Everything mounted for the chroot lives in a mount namespace of its own and goes with its last process. The shell
# stays as process 1 of the namespace: the tests take their own process for an ordinary one.
in_chroot() {
  unshare --mount --pid --fork --propagation private bash -euc '
    root=$1 repository=$2; shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir -p "$root/bramble"
    mount --bind "$repository" "$root/bramble"
    mount -o remount,bind,ro "$root/bramble"
    setarch linux32 chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
      PYTHONPYCACHEPREFIX=/var/cache/bramble/pycache HYPOTHESIS_STORAGE_DIRECTORY=/var/cache/bramble/hypothesis \
      BRAMBLE_SLOWER=${BRAMBLE_SLOWER:-20} ${BRAMBLE_NO_SKIPS:+BRAMBLE_NO_SKIPS=$BRAMBLE_NO_SKIPS} \
      "$@"
    exit' armhf "$root" "$repository" "$@"
}

register_qemu
if [ "$(cat "$root/.made-of" 2>/dev/null)" != "$suite $packages" ]; then
  uri=${MIRROR:-$(apt-cache policy 2>/dev/null |
    awk '/https?:\/\// { uri = $2 } /release .*o=Debian,.*l=Debian,/ { print uri; exit }')}
  [ -n "$uri" ] || die "apt knows no archive of Debian here: name one with MIRROR=URI"
  say "building a chroot of Debian $suite in $root, some minutes"
  rm -rf --one-file-system "$root"
  debootstrap --arch=armhf --variant=minbase --include="$packages" "$suite" "$root" "$uri" >"$dir/debootstrap.log" 2>&1 ||
    { tail -20 "$dir/debootstrap.log" >&2; die "debootstrap failed, all it said is in $dir/debootstrap.log"; }
  rm -rf "$root"/var/cache/apt/archives/*.deb
  printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n' >"$root/etc/hosts"
  echo "$suite $packages" >"$root/.made-of"
fi

# What Debian lacks or has too old comes as wheels. The chroot says what it misses, by its own markers and with
# what the installed distributions need in turn; the native pip, which knows this machine's index, installs it there.
version=$(in_chroot python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
site=$root/usr/local/lib/python$version/dist-packages
platforms=()
for glibc in 17 28 31 35; do platforms+=(--platform "manylinux_2_${glibc}_armv7l"); done
for round in 1 2 3 4 5 6 7 8; do
  mapfile -t missing < <(in_chroot python3 /bramble/tests/armhf/missing.py /bramble/pyproject.toml)
  ((${#missing[@]})) || break
  ((round < 8)) || die "these requirements contradict each other: ${missing[*]}"
  say "installing ${missing[*]}"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$site" \
    --only-binary=:all: --implementation cp --python-version "$version" "${platforms[@]}" "${missing[@]}"
done

in_chroot python3 -c '
import platform, struct, numpy, zstandard
print("Python", platform.python_version(), "on", platform.machine(), 8 * struct.calcsize("P"), "bits, numpy",
      numpy.__version__, "zstandard", zstandard.__version__, "zstd", *zstandard.ZSTD_VERSION)'
in_chroot sh -c 'cd /bramble && exec "$@"' sh python3 -m pytest -q -p no:cacheprovider "$@"
