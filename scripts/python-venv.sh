#!/usr/bin/env bash
# Makes the Python venvs that the tests use: $DEFIB_TEST_VENV (default target/test-venv) with the newest redis-py, the
# same path with "-redis5" appended, and with "-kstlib". Returns at once if all hold what is asked for.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
venv=${DEFIB_TEST_VENV:-$root/target/test-venv}
python=${PYTHON:-python3}

# The stamp is written last, so an interrupted installation is repeated.
make_venv() {
  local dir=$1 requirements=$2
  cmp -s "$requirements" "$dir/requirements.stamp" && return
  echo "installing $(basename "$requirements") into $dir" >&2
  "$python" -m venv --clear "$dir"
  "$dir/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
  cp "$requirements" "$dir/requirements.stamp"
}

mkdir -p "$(dirname "$venv")"
# Two test processes may ask at once; the second waits and finds the work done.
exec 9>"$venv.lock"
flock 9
make_venv "$venv" "$root/tests/python/requirements.txt"
make_venv "$venv-redis5" "$root/tests/python/requirements-redis5.txt"
make_venv "$venv-kstlib" "$root/tests/python/requirements-kstlib.txt"
