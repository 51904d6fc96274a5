#!/usr/bin/env bash
# Sourced by quickstart.sh and test.sh: makes .venv where there is none and installs segkit into it.
#   install EXTRA     EXTRA is empty or like [test]
install() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  local python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "segkit needs Python 3.11 or newer; say which with PYTHON=..." >&2; exit 1; }
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  local stamp=.venv/segkit-installed$1
  if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing segkit$1 into .venv (about 7 GB the first time, for torch)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$1"
    touch "$stamp"
  fi
}
