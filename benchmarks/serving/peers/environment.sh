# Sourced by the peers' scripts: an environment for each, with pinned versions, made when it is first needed.
#   peer_environment NAME [PYTHON]     sets $venv; $POISE_PEERS is where the environments live
# Unless told otherwise all run on $SERVING_PYTHON, the interpreter of the benchmark: builds differ by a quarter.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peer_environment() {
  local python=${2:-${SERVING_PYTHON:-python3.11}} made_of
  venv=${POISE_PEERS:-$HOME/.cache/poise-peers}/serving-$1
  made_of=$("$python" -c 'import sys; print("#", sys.version, sys.base_prefix)' && cat "$here/$1.lock")
  if [[ ! -f $venv/made_of || $made_of != "$(< "$venv/made_of")" ]]; then
    echo "installing $1 in $venv" >&2
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps -r "$here/$1.lock" >&2
    printf '%s\n' "$made_of" > "$venv/made_of"
  fi
}
