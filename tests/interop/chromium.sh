#!/bin/sh
# Runs headless Chromium at a home of its own, in namespaces of its own: its policies are those of FOLDER/etc, nothing is
# written outside FOLDER, and whatever it has started ends with it.
#
#   chromium.sh FOLDER ARGUMENT...
set -eu
folder=$1
shift

if [ "${ADIT_IN_NAMESPACES:-}" != yes ]; then
    export ADIT_IN_NAMESPACES=yes
    exec unshare --user --map-root-user --mount --pid --fork --kill-child --mount-proc -- "$0" "$folder" "$@"
fi

mount --bind "$folder/etc" /etc/chromium
export HOME="$folder/home" TMPDIR="$folder/home/tmp"
unset XDG_CONFIG_HOME XDG_CACHE_HOME XDG_DATA_HOME DISPLAY WAYLAND_DISPLAY DBUS_SESSION_BUS_ADDRESS
mkdir -p "$TMPDIR"
# No name is looked up but the gateway's, so that nothing can go past it; and nothing of the browser's own goes out.
exec chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-sync --disable-background-networking \
    --disable-component-update --disable-default-apps --disable-extensions --disable-dev-shm-usage \
    --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE localhost' "$@"
