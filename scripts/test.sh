#!/usr/bin/env bash
# Sets up and runs the tests; --all adds the slow ones; further words go to pytest:  bash scripts/test.sh --all -k geometry
set -euo pipefail
source "$(dirname "$0")/install.sh"
install "[test]"
chosen=(-m "not slow")
if [[ "${1:-}" == --all ]]; then
  chosen=(-m "slow or not slow")
  shift
fi
exec .venv/bin/python -m pytest "${chosen[@]}" -n logical --dist loadfile --no-loadscope-reorder "$@"
