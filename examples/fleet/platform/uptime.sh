#!/bin/sh
# How long this machine has been up, and in which region it believes to be.
echo "${REGION:-nowhere}: $(cut -d' ' -f1 /proc/uptime) seconds"
