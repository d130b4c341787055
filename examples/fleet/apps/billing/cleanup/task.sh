#!/bin/sh
echo "nothing to clean up"
