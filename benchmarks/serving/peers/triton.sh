#!/usr/bin/env bash
# Triton 2.51 for CPU, from the wheel of pytriton; it has the Python backend only.
# It needs Debian's own python3.11 (the backend links its libpython): apt-get install python3.11-venv if missing.
. "$(dirname "$0")/environment.sh"
peer_environment triton /usr/bin/python3.11
[[ ${1:-} == --install ]] && exit
site=$venv/lib/python3.11/site-packages
repository=$SERVING_WORK/triton/models backends=$SERVING_WORK/triton/backends
rm -rf "$SERVING_WORK/triton"
mkdir -p "$repository/tokens/1" "$backends"
cp -r "$site/pytriton/tritonserver/backends/python" "$backends/"
cp "$site"/pytriton/tritonserver/python_backend_stubs/3.11/* "$backends/python/"
cp "$here/triton_model.py" "$repository/tokens/1/model.py"
cp "$here/engine.py" "$repository/tokens/1/engine.py"
cat > "$repository/tokens/config.pbtxt" <<END
backend: "python"
max_batch_size: $SERVING_MAX_BATCH
input [{name: "tokens" data_type: TYPE_FP32 dims: [$SERVING_SHAPE]}]
output [{name: "logits" data_type: TYPE_FP32 dims: [10]}]
instance_group [{kind: KIND_CPU count: 1}]
dynamic_batching {
  max_queue_delay_microseconds: $(awk "BEGIN {printf \"%d\", ${SERVING_WAIT_MS} * 1000}")
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: $((SERVING_TIMEOUT_MS * 1000))
    max_queue_size: $SERVING_QUEUE
  }
}
END
export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv PYTHONPATH=$site LD_LIBRARY_PATH=$site/nvidia_pytriton.libs
exec "$site/pytriton/tritonserver/bin/tritonserver" --model-repository "$repository" --backend-directory "$backends" \
  --http-address 127.0.0.1 --http-port "$SERVING_PORT" --http-thread-count "${SERVING_HTTP_THREADS:-2}" \
  --allow-grpc false --allow-metrics false --log-info false
