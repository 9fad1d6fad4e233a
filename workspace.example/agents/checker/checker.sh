#!/bin/sh
# The checker: every link from one note to another must lead somewhere; else a person is asked.
set -eu
mkdir -p outputs
: >outputs/broken.txt
links=0
for note in "$RAVI_WORKSPACE"/notes/*.md; do
    [ -f "$note" ] || continue
    for target in $(grep -o '](\([^():# ]*\.md\)[)#]' "$note" | sed 's/^](//; s/.$//'); do
        links=$((links + 1))
        [ -f "$(dirname "$note")/$target" ] || echo "notes/$(basename "$note"): $target" >>outputs/broken.txt
    done
done
if [ -s outputs/broken.txt ]; then
    ravi tasks block "$RAVI_TASK" "$(grep -c . outputs/broken.txt) of $links links lead nowhere; see outputs/broken.txt"
else
    echo "All $links links lead somewhere."
fi
