#!/usr/bin/env bash
# Runs a command with a cluster around it: up before, down after, whatever becomes of the command.
# Usage: test/e2e/run.sh COMMAND [ARG...]
# E2E_KEEP=1 leaves the cluster for the next run; test/e2e/cluster.sh down takes it down then.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ -n "${E2E_KEEP:-}" ] || trap '"$here/cluster.sh" down' EXIT
environment=$("$here/cluster.sh" up)
eval "$environment"
"$@"
