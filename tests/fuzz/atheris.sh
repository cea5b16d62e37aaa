#!/bin/sh
# Coverage-guided fuzzing of the codec by atheris, in an environment of its own: it is of no use to anything else.
#   tests/fuzz/atheris.sh [SECONDS]
# Exit status 77: atheris cannot be installed here, so nothing was tried.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-60}
env=${POISE_PEERS:-$HOME/.cache/poise-peers}/atheris
if [ ! -x "$env/bin/python" ] || [ ! -e "$env/.installed" ]; then
    rm -rf "$env"
    "$root/.venv/bin/python" -m venv "$env"
    if ! "$env/bin/pip" install --quiet --disable-pip-version-check atheris==3.0.0; then
        echo 'atheris 3.0.0 cannot be installed here' >&2
        exit 77
    fi
    touch "$env/.installed"
fi
site=$("$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
cd "$found"
PYTHONPATH="$root:$root/src:$site" "$env/bin/python" -m tests.fuzz.atheris_codec \
    -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 || {
    status=$?
    for file in crash-* oom-* timeout-*; do
        [ -e "$file" ] && { echo "found: $file"; od -c "$file" | head -40; } >&2
    done
    exit "$status"
}
