#!/usr/bin/env bash
# Prints the path of prometheus or promtool: this machine's own, else of Debian's package, unpacked for the tests alone.
#
#   prometheus.sh prometheus|promtool
#
# The package goes under ${POISE_PEERS:-~/.cache/poise-peers}/prometheus and is found there again. apt-get downloads it
# and dpkg unpacks it: neither needs to be root, unless the lists of packages are missing. Two runs at once do not
# disturb each other: one unpacks, under a lock, and the other waits.
set -euo pipefail

tool=$1
if command -v "$tool"; then
  exit 0
fi

peers=${POISE_PEERS:-$HOME/.cache/poise-peers}
home=$peers/prometheus

unpack() {
  rm -rf "$home"
  mkdir "$home"
  cd "$home"
  apt-get download prometheus || { apt-get update && apt-get download prometheus; }
  dpkg -x prometheus_*.deb "$home"
  rm prometheus_*.deb
  touch "$home/.unpacked"
}

mkdir -p "$peers"
if [[ ! -e $home/.unpacked ]]; then
  exec 9> "$peers/prometheus.lock"
  flock 9
  [[ -e $home/.unpacked ]] || unpack >&2
  exec 9>&-
fi
echo "$home/usr/bin/$tool"
