#!/usr/bin/env bash
# Ray Serve: POST /predict, raw bytes.
. "$(dirname "$0")/environment.sh"
peer_environment ray
[[ ${1:-} == --install ]] && exit
export RAY_USAGE_STATS_ENABLED=0 RAY_SERVE_ENABLE_EXPERIMENTAL_STREAMING=1 RAY_SERVE_LOG_TO_STDERR=0 PYTHONPATH=$here
exec "$venv/bin/python" "$here/ray_server.py"
