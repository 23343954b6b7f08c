#!/usr/bin/env bash
# Makes the pictures of this folder anew, from real programs on a bus with real traffic: all of them, or those named.
#
#   docs/pictures/make.sh            all
#   docs/pictures/make.sh top        docs/pictures/top.svg
#
# Needs tmux and python3, and takes two minutes. PROGRAMS is a folder with pipebus and pipebusd, if they are not to be built. As root it has several users, as a system's bus has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z ${PROGRAMS-} ]]; then
    cargo build --quiet --release --workspace --bins
    PROGRAMS=$PWD/target/release
fi
PATH=$PROGRAMS:$PATH
unset NO_COLOR
export LC_ALL=C.UTF-8
work=$(mktemp -d -t shop.XXXX)
bus=$work/pipebus
declare -a started=()

# A server for each screen, since one that ends may still be in the way of the next.
screens=0
tmux() { command tmux -u -f /dev/null -S "$work/tmux$screens" "$@"; }

end() {
    tmux kill-server 2>/dev/null || true
    # Each is the first of a process group of its own.
    for pid in "${started[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

# as USER COMMAND...: runs in the background as that user where that can be, until this script ends.
as() {
    local user=$1
    shift
    if [[ $EUID -eq 0 ]] && id -u "$user" >/dev/null 2>&1; then
        set -- setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups "$@"
    fi
    setsid "$@" >>"$work/output" 2>&1 &
    started+=($!)
}

# Lines without end: so many a second on average, more and less in turn, each of so many bytes.
wave='
import math, sys, time
rate, period, size = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
number = 0
while True:
    now = time.monotonic()
    for _ in range(max(1, round(rate / 20 * (1 + 0.8 * math.sin(now / period * math.tau))))):
        number += 1
        print(f"{20 + 5 * math.sin(now):.2f} ", "x" * size, sep="")
    sys.stdout.flush()
    time.sleep(max(0.05, 1 / rate))
'
# Reads so many lines a second.
slow='
import sys, time
for line in sys.stdin:
    time.sleep(1 / float(sys.argv[1]))
'

publish() { # USER TOPIC RATE PERIOD SIZE
    as "$1" bash -c 'python3 -c "$1" "${@:4}" | pipebus --bus "$2" pub "$3" --lines' - "$wave" "$bus" "$2" "${@:3}"
}

subscribe() { # USER ARGUMENTS...
    as "$1" bash -c 'exec pipebus --bus "$@" >/dev/null' - "$bus" sub "${@:2}"
}

traffic() {
    chmod 755 "$work"
    : >"$work/output"
    local rules="[{who=['owner','root'],allow=['all']},
        {who=['any'],allow=['connect','publish','subscribe','request','serve','block']}]"
    as root pipebusd --bus "$bus" --log error --set door.access=everyone --set "policy.rules=$rules" \
        --set queue.bytes_max=262144 --set queue.stall_timeout_ms=1000
    until pipebus --bus "$bus" status >/dev/null 2>&1; do sleep 0.1; done
    subscribe www-data 'sensors/**'
    subscribe www-data 'sensors/*/temp' 'orders/*/paid' --overflow latest
    subscribe backup 'orders/**' 'backup/done'
    as games bash -c 'pipebus --bus "$1" sub "logs/**" --overflow drop-oldest | python3 -c "$2" 400' - "$bus" "$slow"
    as games bash -c 'pipebus --bus "$1" sub "camera/front" | sleep infinity' - "$bus"
    publish daemon sensors/kitchen/temp 900 26 30
    publish daemon sensors/cellar/humidity 120 14 30
    publish www-data orders/web/paid 300 40 400
    publish proxy logs/app 1500 33 80
    publish games camera/front 12 60 60000
    as root pipebus --bus "$bus" reply host/uptime -- uptime
    as www-data pipebus --bus "$bus" reply 'shop/price' -- echo 42
}

columns=110

# screen COLUMNS LINES: a terminal with a shell that knows which bus is meant.
screen() {
    tmux kill-server 2>/dev/null || true
    screens=$((screens + 1))
    tmux new-session -d -x "$1" -y "$2" -e PS1=$'\\[\e[32m\\]$\\[\e[0m\\] ' -e PATH="$PATH" -e "PIPEBUS_BUS=$bus" \
        bash --norc --noprofile
    sleep 0.5
}

press() { tmux send-keys "$@"; }

# take NAME TITLE: what is on the screen becomes the picture.
take() {
    tmux capture-pane -e -p -N | sed 's/; sleep 1000//' |
        python3 docs/pictures/ansi2svg.py --title "$2" --columns "$columns" >"docs/pictures/$1.svg"
    echo "docs/pictures/$1.svg"
}

# A command that shows something and ends: with the line that was typed, and no prompt behind it.
shot() { # NAME LINES SECONDS COMMAND
    screen "$columns" "$2"
    press -l "$4; sleep 1000"
    press Enter
    sleep "$3"
    take "$1" "$4"
}

# A command that goes on until it is ended.
live() { # NAME LINES SECONDS COMMAND
    screen "$columns" "$2"
    press -l "clear; $4"
    press Enter
    sleep "$3"
    take "$1" "$4"
}

picture() {
    if ! pipebus "$1" --help >/dev/null 2>&1; then
        echo "$1: this pipebus has no such command" >&2
        return
    fi
    case $1 in
    top)
        live top 26 75 'pipebus top'
        press / logs Enter Enter
        sleep 2
        take top-detail 'pipebus top'
        ;;
    status | instances | topics | users | subscriptions | scan) shot "$1" 60 2 "pipebus $1" ;;
    monitor) live monitor 24 4 "pipebus monitor" ;;
    demo) columns=120 shot demo 100 15 'pipebus demo' ;;
    *)
        echo "there is no picture of $1" >&2
        exit 2
        ;;
    esac
}

traffic
(($#)) || set -- top status instances monitor scan demo
for name in "$@"; do picture "$name"; done
