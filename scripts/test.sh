#!/usr/bin/env bash
# Sets up and runs the tests; further words go to pytest:  bash scripts/test.sh -k geometry
set -euo pipefail
source "$(dirname "$0")/install.sh"
install "[test]"
exec .venv/bin/python -m pytest -m "not slow" -n logical --dist loadfile "$@"
