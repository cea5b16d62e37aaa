#!/usr/bin/env bash
# Runs the system under test in an environment of its own, which the first run makes.
#
#   loadgen.sh --install-only
#   loadgen.sh HOST:PORT MODEL SAMPLES.npz [sut.py's flags…]
#
# The environment is ${POISE_PEERS:-~/.cache/poise-peers}/mlperf, made with ${PYTHON:-python3}.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${POISE_PEERS:-$HOME/.cache/poise-peers}/mlperf
mark=$home/.installed-$(sha256sum "$here/requirements.txt" | cut -c1-16)

install() {
  rm -rf "$home"
  "${PYTHON:-python3}" -m venv "$home"
  "$home/bin/pip" install --quiet --quiet --disable-pip-version-check -r "$here/requirements.txt"
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
exec "$home/bin/python" "$here/sut.py" "$@"
