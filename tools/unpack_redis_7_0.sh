#!/usr/bin/env bash
# Unpack Redis 7.0, the oldest server that is supported, into a folder: tools/unpack_redis_7_0.sh .venv/redis-7.0
#
# No wheel has one, but Debian 12 and Ubuntu 24.04 have a package. Its files are only unpacked, with the libraries that
# they need: nothing is installed, no service starts, and root is not needed. Elsewhere this says why not and succeeds;
# the tests that want this server are then skipped.
set -euo pipefail

mkdir -p "$1"
folder=$(cd "$1" && pwd)
server=$folder/redis-server

skip() {
    echo "Redis 7.0 is not tested here: $1" >&2
    exit 0
}

is_7_0() {
    "$1" --version 2>/dev/null | grep -q 'v=7\.0\.'
}

write_server() { # its path, and the folder of its libraries if they are not the system's
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "${2:-}" "$1" >"$server"
    chmod +x "$server"
}

installed=$(command -v redis-server || true)
if [ -n "$installed" ] && is_7_0 "$installed"; then
    write_server "$installed"
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || skip "this system has no apt-get"

# Package lists and packages of our own, so that no lock and no file of the system is touched.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
apt() {
    # Two minutes are ten times what it takes on a usual line; a mirror that does not answer must not hold up the tests.
    timeout 120 apt-get -qq --no-install-recommends -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
        -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache" -o Acquire::Languages=none \
        -o Acquire::Retries=1 "$@" >"$scratch/log" 2>&1 </dev/null
}
apt update || skip "apt-get could not fetch the lists of packages"
apt install --download-only --reinstall --yes redis-server redis-tools || skip "apt-get has no redis-server"
for package in "$scratch"/cache/archives/*.deb; do
    dpkg --extract "$package" "$folder" || skip "$(basename "$package") could not be unpacked"
done

for libraries in "$folder"/usr/lib/*-linux-gnu*; do
    write_server "$folder/usr/bin/redis-server" "$libraries"
done
if ! is_7_0 "$server"; then
    rm -rf "$folder"
    skip "the package of this system is another version"
fi
