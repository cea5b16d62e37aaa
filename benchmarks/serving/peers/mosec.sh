#!/usr/bin/env bash
# mosec: POST /inference, raw bytes.
. "$(dirname "$0")/environment.sh"
peer_environment mosec
[[ ${1:-} == --install ]] && exit
exec "$venv/bin/python" "$here/mosec_server.py" --address 127.0.0.1 --port "$SERVING_PORT" --log-level error \
  --capacity "$SERVING_QUEUE" --timeout "$SERVING_TIMEOUT_MS"
