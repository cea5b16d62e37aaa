#!/usr/bin/env bash
# Runs perf_analyzer, Triton's load generator; installs it first where it is not installed.
#
#   perf_analyzer.sh --install-only
#   perf_analyzer.sh [perf_analyzer's flags…]
#
# Everything goes under ${POISE_PEERS:-~/.cache/poise-peers}/perf-analyzer. The program comes from the PyPI package of
# that name and wants a newer C library than Debian 12 has. So Debian 13's is fetched by apt, with a state of its own
# (no root, nothing of the system is changed), unpacked beside it, and used for this program alone.
# Exit status 77: this machine has no apt, or no Debian mirror to fetch from.
set -euo pipefail

home=${POISE_PEERS:-$HOME/.cache/poise-peers}/perf-analyzer
version=2.60.0
mark=$home/.installed-$version
libraries=$home/trixie
triplet=$(uname -m)-linux-gnu

fetch_program() {
  python3 -m pip download --quiet --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform "manylinux_2_38_$(uname -m)" --python-version 3.12 --dest "$home" "perf-analyzer==$version"
  python3 - "$home" << 'PYTHON'
import pathlib, sys, zipfile

home = pathlib.Path(sys.argv[1])
(wheel,) = home.glob("perf_analyzer-*.whl")
with zipfile.ZipFile(wheel) as archive:
    # the wheel has a small starter of the same name
    largest = max((m for m in archive.infolist() if m.filename.endswith("/perf_analyzer")), key=lambda m: m.file_size)
    (home / "perf_analyzer").write_bytes(archive.read(largest))
(home / "perf_analyzer").chmod(0o755)
wheel.unlink()
PYTHON
}

fetch_libraries() {
  command -v apt-get > /dev/null || { echo "perf_analyzer.sh: there is no apt on this machine" >&2; exit 77; }
  local mirror state=$home/apt
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null \
    | grep -oE '(https?|file|copy)://[^ ]*/debian/?( |$)' | head -1 | tr -d ' ' || true)
  [[ -n $mirror ]] || { echo "perf_analyzer.sh: apt has no Debian mirror on this machine" >&2; exit 77; }
  mkdir -p "$state"/{lists/partial,cache/archives/partial} "$libraries"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$state/sources.list"
  touch "$state/status"
  local apt=(apt-get -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache"
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o APT::Update::Post-Invoke::= )
  "${apt[@]}" update
  (cd "$state/cache" && "${apt[@]}" download libc6 libgcc-s1 libstdc++6 zlib1g libssl3t64 libzstd1)
  local package
  for package in "$state"/cache/*.deb; do dpkg-deb -x "$package" "$libraries"; done
  rm -rf "$state"
}

install() {
  rm -rf "$home"
  mkdir -p "$home"
  fetch_program
  fetch_libraries
  touch "$mark"
}

mkdir -p "$(dirname "$home")"
if [[ ! -e $mark ]]; then
  exec 9> "$home.lock"
  flock 9
  [[ -e $mark ]] || install >&2
  exec 9>&-
fi
[[ ${1:-} != --install-only ]] || exit 0

loader=$(echo "$libraries"/usr/lib*/ld-linux-*.so.* "$libraries"/usr/lib/"$triplet"/ld-linux-*.so.* | tr ' ' '\n' | grep -v '*' | head -1)
exec "$loader" --library-path "$libraries/usr/lib/$triplet" "$home/perf_analyzer" "$@"
