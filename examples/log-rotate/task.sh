#!/bin/sh
# app.log becomes app.log.20261123-000000.gz; the file itself is emptied in place, so whoever writes it may go on.
set -eu
folder=${DICODE_PARAM_FOLDER:-$DICODE_STATE_DIR}
limit=$((DICODE_PARAM_MAX_KIB * 1024))
rotated=0

for log in "$folder"/*.log; do
    [ -f "$log" ] || continue
    [ "$(wc -c < "$log")" -gt "$limit" ] || continue
    gzip -c "$log" > "$log.$(date +%Y%m%d-%H%M%S).gz"
    : > "$log"
    rotated=$((rotated + 1))
    echo "rotated $log"
    # newest first; what lies behind the first $DICODE_PARAM_KEEP goes
    ls -1t "$log".*.gz | tail -n +$((DICODE_PARAM_KEEP + 1)) | while read -r old; do
        rm -- "$old"
        echo "removed $old"
    done
done

echo "$rotated files rotated in $folder"
echo "{\"rotated\": $rotated}" > "$DICODE_RESULT"
