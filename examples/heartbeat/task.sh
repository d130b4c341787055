#!/bin/sh
trap 'echo "stopping"; exit 0' TERM
while :; do
    echo "$(date -u +%FT%TZ) load $(cut -d' ' -f1-3 /proc/loadavg)"
    sleep "$DICODE_PARAM_SECONDS" &
    wait $! # a trap only runs between commands: `wait` lets it in at once
done
