#!/bin/sh
# Archives lie in this task's own folder: DICODE_STATE_DIR stays when the task changes.
set -eu
folder=${DICODE_PARAM_FOLDER:-$PWD}
name=$(basename "$folder")
archive=$DICODE_STATE_DIR/$name-$(date +%Y%m%d-%H%M%S).tar.gz

tar -czf "$archive.part" -C "$(dirname "$folder")" "$name"
gzip -t "$archive.part" # an archive nobody can read is no backup
mv "$archive.part" "$archive"

ls -1t "$DICODE_STATE_DIR/$name"-*.tar.gz | tail -n +$((DICODE_PARAM_KEEP + 1)) | while read -r old; do
    rm -- "$old"
    echo "removed $old"
done

size=$(wc -c < "$archive")
echo "saved $folder to $archive ($size bytes)"
echo "{\"archive\": \"$archive\", \"bytes\": $size}" > "$DICODE_RESULT"
