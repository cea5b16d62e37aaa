#!/usr/bin/env bash
# LitServe: POST /predict, raw bytes.
. "$(dirname "$0")/environment.sh"
peer_environment litserve
[[ ${1:-} == --install ]] && exit
exec "$venv/bin/python" "$here/litserve_server.py"
