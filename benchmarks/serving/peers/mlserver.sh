#!/usr/bin/env bash
# MLServer: POST /v2/models/tokens/infer, JSON with base64.
. "$(dirname "$0")/environment.sh"
peer_environment mlserver
[[ ${1:-} == --install ]] && exit
repository=$SERVING_WORK/mlserver
mkdir -p "$repository/tokens"
cat > "$repository/settings.json" <<END
{"host": "127.0.0.1", "http_port": $SERVING_PORT, "grpc_port": $((SERVING_PORT + 1)), "metrics_endpoint": null,
 "debug": false, "parallel_workers": ${SERVING_WORKERS:-1}, "gzip_enabled": false}
END
cat > "$repository/tokens/model-settings.json" <<END
{"name": "tokens", "implementation": "mlserver_model.Model", "max_batch_size": $SERVING_MAX_BATCH,
 "max_batch_time": $(awk "BEGIN {print ${SERVING_WAIT_MS} / 1000}")}
END
export PYTHONPATH=$here
cd "$repository"
exec "$venv/bin/mlserver" start "$repository"
