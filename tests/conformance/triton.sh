#!/usr/bin/env bash
# Installs Triton Inference Server for the CPU and starts it, as the reference that the conformance test compares with.
#
#   triton.sh --install-only
#   triton.sh MODEL_REPOSITORY [tritonserver flags…]
#
# Everything goes under ${POISE_PEERS:-~/.cache/poise-peers}/triton; a finished installation is kept and found again.
# The server is the one that the PyPI package nvidia-pytriton carries. It has the Python backend only, whose stub is
# linked against Debian's own Python 3.11, so that interpreter makes the environment (apt-get install python3.11-venv).
# Two runs at once do not disturb each other: one installs, under a lock, and the other waits.
set -euo pipefail

peers=${POISE_PEERS:-$HOME/.cache/poise-peers}
home=$peers/conformance-triton
python=/usr/bin/python3.11
mark=$home/.installed-0.7.0

install() {
  [[ -x $python ]] || { echo "triton.sh: $python is missing (apt-get install python3.11 python3.11-venv)" >&2; exit 69; }
  rm -rf "$home"
  # Debian keeps ensurepip in a package of its own; where that is missing, any other pip of this machine serves.
  if "$python" -c 'import ensurepip' 2> /dev/null; then
    "$python" -m venv "$home"
  else
    "$python" -m venv --without-pip "$home"
  fi
  local pip=("$home/bin/python" -m pip)
  "${pip[@]}" --version > /dev/null 2>&1 || pip=(python3 -m pip --python "$home/bin/python")
  "${pip[@]}" install --quiet --quiet --disable-pip-version-check nvidia-pytriton==0.7.0 'numpy==1.26.4'
  local shipped=$home/lib/python3.11/site-packages/pytriton/tritonserver
  mkdir "$home/backends"
  cp -r "$shipped/backends/python" "$home/backends/python"
  cp "$shipped"/python_backend_stubs/3.11/* "$home/backends/python/"
  touch "$mark"
}

mkdir -p "$peers"
if [[ ! -e $mark ]]; then
  exec 9> "$peers/conformance-triton.lock"
  flock 9
  [[ -e $mark ]] || install >&2
  exec 9>&-
fi
[[ ${1:-} != --install-only ]] || exit 0

repository=$1
shift
site=$home/lib/python3.11/site-packages
export VIRTUAL_ENV=$home PATH=$home/bin:$PATH PYTHONPATH=$site LD_LIBRARY_PATH=$site/nvidia_pytriton.libs
exec "$site/pytriton/tritonserver/bin/tritonserver" --model-repository "$repository" --backend-directory "$home/backends" "$@"
