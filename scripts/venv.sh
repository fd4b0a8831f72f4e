#!/usr/bin/env bash
# Make a virtual environment: scripts/venv.sh PYTHON FOLDER
# Debian and Ubuntu ship Python without the venv module; install it where that is allowed, say how where it is not.
set -euo pipefail
python=$1 folder=$2

[ -x "$folder/bin/python" ] && exit 0
if ! command -v "$python" >/dev/null; then
  echo "error: no $python on PATH; install Python 3.11 or newer (apt-get install python3 python3-venv), or set PYTHON=" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $("$python" --version) is too old; asrgate needs Python 3.11 or newer (set PYTHON=/path/to/python3.x)" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  package="$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')"
  echo "Python has no venv module; installing $package"
  if [ "$(id -u)" = 0 ]; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"
  elif sudo -n true 2>/dev/null; then
    sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends "$package"
  else
    echo "error: run 'sudo apt-get install $package' and try again" >&2
    exit 1
  fi
fi
echo "Making a virtual environment in $folder and installing asrgate (a minute or two, once)"
"$python" -m venv "$folder"
