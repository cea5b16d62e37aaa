#!/usr/bin/env bash
# BentoML: POST /predict, JSON with base64.
. "$(dirname "$0")/environment.sh"
peer_environment bentoml
[[ ${1:-} == --install ]] && exit
export BENTOML_DO_NOT_TRACK=True BENTOML_HOME=$SERVING_WORK/bentoml PYTHONPATH=$here
exec "$venv/bin/bentoml" serve --working-dir "$here" bentoml_server:Model --host 127.0.0.1 --port "$SERVING_PORT"
