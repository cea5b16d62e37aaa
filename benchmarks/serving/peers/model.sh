#!/usr/bin/env bash
# Not a peer: makes the model in an environment that has onnx.  model.sh FILE
. "$(dirname "$0")/environment.sh"
peer_environment model
[[ ${1:-} == --install ]] && exit
exec "$venv/bin/python" "$here/../make_model.py" "$1"
