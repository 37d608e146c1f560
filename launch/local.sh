#!/usr/bin/env bash
# Runs jaxgen on this machine: makes .venv where it is missing, installs for the hardware found, hands on all arguments.
#
#   bash launch/local.sh train configs/quickstart.py
#   bash launch/local.sh test [pytest arguments]
#
# PYTHON names the interpreter to make .venv from (3.11 or newer), JAXGEN_EXTRA overrides the hardware found: cpu, gpu or tpu, each
# also with ",gcs" for run folders on gs://. JAXGEN_VENV is another place for the environment, to share it between copies of the code.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${JAXGEN_VENV:-$root/.venv}
python=${PYTHON:-python3}

hardware() {
  if compgen -G '/dev/accel[0-9]*' >/dev/null || { [ -d /dev/vfio ] && grep -qs 0x1ae0 /sys/bus/pci/devices/*/vendor; }; then
    echo tpu
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    echo gpu
  else
    echo cpu
  fi
}

extra=${JAXGEN_EXTRA:-$(hardware)}
case $extra in
  cpu) extras= ;;
  cpu,gcs) extras=gcs ;;
  gpu | tpu | gpu,gcs | tpu,gcs) extras=$extra ;;
  *) echo "launch/local.sh: JAXGEN_EXTRA: found '$extra', needed cpu, gpu or tpu, alone or with ,gcs" >&2; exit 2 ;;
esac
[ "${1:-}" = test ] && extras=${extras:+$extras,}test
# The TPU's compiler, which needs no TPU.
case "${1:-},$extras," in
  preflight,*tpu,*) ;;
  preflight,*) extras=tpu${extras:+,$extras} ;;
esac

# Installed again only when what is asked for changes.
wanted="$(cksum <"$root/pyproject.toml") $extra"
stamp=$venv/.installed-${extras:-base}
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "launch/local.sh: PYTHON: found $("$python" --version 2>&1), needed Python 3.11 or newer" >&2
      exit 2
    }
    "$python" -m venv "$venv"
  fi
  echo "installing jaxgen for $extra into $venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root${extras:+[$extras]}"
  echo "$wanted" >"$stamp"
fi

# On a CPU every step takes its buffers anew from the system. Huge pages (glibc 2.35 and newer) make that 40 times fewer page faults,
# and small models train 1.3 to 1.7 times as fast.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

if [ "${1:-}" = test ]; then
  shift
  cd "$root"
  # A file's tests share what they compile, so they stay in one process; tests/conftest.py puts the long files first.
  exec "$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
fi
exec "$venv/bin/jaxgen" "$@"
