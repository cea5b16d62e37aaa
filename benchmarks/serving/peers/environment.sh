# Sourced by the peers' scripts: an environment for each, with pinned versions, made when it is first needed.
#   peer_environment NAME [PYTHON]     sets $venv; $POISE_PEERS is where the environments live
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peer_environment() {
  venv=${POISE_PEERS:-$HOME/.cache/poise-peers}/serving-$1
  if ! cmp -s "$here/$1.lock" "$venv/installed.lock"; then
    echo "installing $1 in $venv" >&2
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    "${2:-python3.11}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input --no-deps -r "$here/$1.lock" >&2
    cp "$here/$1.lock" "$venv/installed.lock"
  fi
}
