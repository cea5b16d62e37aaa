#!/usr/bin/env bash
# Not a peer: py-spy, for where_time_goes.py.  py_spy.sh ARGUMENTS…
. "$(dirname "$0")/environment.sh"
peer_environment py_spy
[[ ${1:-} == --install ]] && exit
exec "$venv/bin/py-spy" "$@"
