#!/usr/bin/env bash
# What runs on each host of a slice. The launcher copies it there as ~/.jaxgen/worker.sh and calls it over ssh.
#
#   worker.sh unpack CODE                                  checks the archive CODE.tar.gz and unpacks it
#   worker.sh environment DIR                              makes the Python environment of the code in DIR, once for each pyproject.toml
#   worker.sh jaxgen DIR ARGUMENTS...                      runs jaxgen from the code in DIR, in place of this process
#   worker.sh start JOB ATTEMPT CODE NAME=VALUE... -- ARGUMENTS...
#                                                          starts one attempt in the background, unless it was started before
#   worker.sh status SLICE [JOB]                           one line on all attempts of a job (the newest), and which job is running
#   worker.sh stop SECONDS                                 asks the newest attempt to save and end, kills it after SECONDS
#   worker.sh log SLICE LINES [follow]                     the end of its log, each line behind [SLICE-HOST]
#
# An attempt is a folder, ~/.jaxgen/jobs/JOB/ATTEMPT: log, pid and identity of its supervisor, child (the pid of jaxgen), exit ("code
# seconds", written when it ends). These files are all that is known of a job; whoever asks for its status needs nothing else.
set -uo pipefail
home=$HOME/.jaxgen
jobs=$home/jobs

# A process by boot, pid and start time: after a reboot the same pid is another process. A zombie is none.
identity() {
  local fields
  fields=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The second field, the name in brackets, may hold spaces; the start time is the 20th after it.
  # shellcheck disable=SC2086
  set -- ${fields##*) }
  [ "$1" != Z ] || return 1
  echo "$(cat /proc/sys/kernel/random/boot_id) ${20}"
}

alive() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) && [ -n "$pid" ] && [ "$(identity "$pid")" = "$(cat "$1/identity" 2>/dev/null)" ]
}

newest() { # the folder of the newest attempt of the newest job
  local job number
  job=$(cat "$jobs/current" 2>/dev/null) || return 1
  number=$(ls "$jobs/$job" 2>/dev/null | grep -E '^[0-9]+$' | sort -n | tail -n 1)
  [ -n "$number" ] && echo "$jobs/$job/$number"
}

host_number() {
  local number
  number=$(curl --silent --fail --max-time 5 --header 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number 2>/dev/null) || number=
  # Names of TPU VMs end with -w-NUMBER, too.
  [ -n "$number" ] || number=$(hostname | sed -n 's/.*-w-\([0-9]*\)$/\1/p')
  echo "${number:-0}"
}

state() { # of an attempt: running, exited, or lost (gone without an exit code: killed, or the machine was restarted)
  if [ -f "$1/exit" ]; then
    echo exited
  elif alive "$1"; then
    echo running
  elif [ ! -f "$1/identity" ] && [ $(($(date +%s) - $(stat -c %Y "$1"))) -lt 60 ]; then
    echo running # just begun
  elif [ -f "$1/exit" ]; then
    echo exited # it ended between the first look and this one
  else
    echo lost
  fi
}

finish() { # ATTEMPT CODE: the first code stays, and a reader sees all of it or nothing
  local part=$1/.exit-$BASHPID
  echo "$2 $(date +%s.%N)" >"$part"
  ln "$part" "$1/exit" 2>/dev/null
  rm -f "$part"
}

unpack() {
  cd "$home/code" || exit 1
  [ -d "$1" ] && return
  # Named by what it holds, before compression.
  [ "$(gzip -dc "$1.tar.gz" | sha256sum)" = "$1  -" ] || { echo "the archive $1.tar.gz did not arrive whole" >&2; exit 1; }
  # Runs with a relative name stay where they are when the code changes.
  mkdir -p "$home/runs" && rm -rf ".$1" && mkdir ".$1" && tar -xzf "$1.tar.gz" -C ".$1" && ln -sfn "$home/runs" ".$1/runs" && mv ".$1" "$1"
}

environment_of() { echo "$home/environments/$(sha256sum <"$1/pyproject.toml" | cut -c 1-16)"; }

suitable_python() {
  local python
  for python in python3.13 python3.12 python3.11 python3; do
    "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$python" && return
  done
  return 1
}

run_jaxgen() { # DIR ARGUMENTS...: PYTHONPATH comes before the copy of the code that the environment was made from
  local directory=$1
  shift
  JAXGEN_VENV=$(environment_of "$directory") JAXGEN_EXTRA=${JAXGEN_EXTRA:-tpu,gcs} PYTHONPATH=$directory \
    exec bash "$directory/launch/local.sh" "$@"
}

environment() {
  local venv python
  venv=$(environment_of "$1")
  mkdir -p "$venv"
  exec 9>"$venv.lock"
  flock 9
  if [ ! -x "$venv/bin/python" ]; then
    if python=$(suitable_python); then
      export PYTHON=$python
    else
      # TPU VM images carry Python 3.10; uv brings a newer one without root.
      python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --seed --python 3.12 --allow-existing "$venv" || exit 1
    fi
  fi
  (run_jaxgen "$1" --help >/dev/null)
}

supervise() { # ATTEMPT CODE NAME=VALUE... -- ARGUMENTS...
  local attempt=$1 code=$2 child heard result='' now pair
  shift 2
  # Hears signals and does not pass them on: a shutdown signals every process, and a second signal would end training before it has saved.
  trap 'heard=1' TERM INT HUP
  echo $$ >"$attempt/pid"
  identity $$ >"$attempt/.identity" && mv "$attempt/.identity" "$attempt/identity"
  while [ "$1" != -- ]; do
    pair=$1
    export "${pair?}"
    shift
  done
  shift
  # The log is read while it is written.
  export PYTHONUNBUFFERED=1
  # Names of configurations are meant from the top of the code.
  cd "$home/code/$code" || exit 1
  (run_jaxgen "$PWD" "$@") </dev/null &
  child=$!
  echo "$child" >"$attempt/child"
  # A signal to this shell ends `wait` early; the child lives on, so it is waited for again. 127: it was waited for already.
  while :; do
    heard=0
    wait "$child" 2>/dev/null
    now=$?
    [ "$now" -eq 127 ] && [ -n "$result" ] || result=$now
    [ "$heard" -eq 1 ] || break
  done
  finish "$attempt" "$result"
}

start() { # JOB ATTEMPT CODE NAME=VALUE... -- ARGUMENTS...
  local job=$1 number=$2 before attempt=$jobs/$1/$2
  shift 2
  mkdir -p "$jobs/$job"
  exec 9>"$jobs/.lock"
  flock 9
  [ -d "$attempt" ] && return
  if before=$(newest) && [ "$(state "$before")" = running ]; then
    echo "busy: attempt ${before##*/} of job $(basename "$(dirname "$before")") is running" >&2
    exit 4
  fi
  mkdir "$attempt" || exit 1
  echo "$job" >"$jobs/.current" && mv "$jobs/.current" "$jobs/current"
  setsid nohup bash "${BASH_SOURCE[0]}" supervise "$attempt" "$@" >"$attempt/log" 2>&1 </dev/null 9>&- &
}

status() { # SLICE [JOB]
  local job busy=- number attempt exit attempts=
  if attempt=$(newest) && [ "$(state "$attempt")" = running ]; then busy=$(basename "$(dirname "$attempt")"); fi
  job=${2:-$(cat "$jobs/current" 2>/dev/null)}
  for number in $(ls "$jobs/${job:--}" 2>/dev/null | grep -E '^[0-9]+$' | sort -n); do
    attempt=$jobs/$job/$number
    number=$number:$(state "$attempt")
    exit=$(cat "$attempt/exit" 2>/dev/null) || exit='- -'
    attempts=${attempts:+$attempts,}$number:${exit/ /:}
  done
  echo "jaxgen-host slice=$1 host=$(host_number) job=${job:--} busy=$busy now=$(date +%s.%N) attempts=${attempts:--}"
}

stop() { # SECONDS
  local attempt tick
  attempt=$(newest) || return 0
  [ "$(state "$attempt")" = running ] || return 0
  kill -TERM "$(cat "$attempt/child")" 2>/dev/null
  for ((tick = 0; tick < $1 * 5; tick++)); do
    [ "$(state "$attempt")" = running ] || return 0
    sleep 0.2
  done
  # The supervisor leads a session of its own: this is the group of all that it started.
  kill -KILL -- "-$(cat "$attempt/pid")" 2>/dev/null
  finish "$attempt" 137
}

log() { # SLICE LINES [follow]
  local attempt prefix follow=()
  attempt=$(newest) || return 0
  prefix="[$1-$(host_number)] "
  [ "${3:-}" = follow ] && alive "$attempt" && follow=(--follow --pid="$(cat "$attempt/pid")")
  tail --lines="$2" "${follow[@]}" "$attempt/log" | sed --unbuffered "s/^/$prefix/"
}

command=${1:-}
shift
case $command in
  unpack | environment | start | supervise | status | stop | log) "$command" "$@" ;;
  jaxgen) run_jaxgen "$@" ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
