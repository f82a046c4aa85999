#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the SOCI snapshotter a service of the host whose root is $HOST, and does nothing
# where all is as it should be: it runs at each start of the pod.
#
# SRC has the binaries, FILES what the chart has, CONFIG the daemon's configuration if there
# is one, DROP_IN is auto, 1.7, 2.x or none, CONTAINERD_DIR is where that goes,
# CONTAINERD_RESTART is true or false, ON_HOST is what runs a command on the host.
set -eu
: "${HOST:=/host}" "${SRC:=/usr/local/bin}" "${FILES:=/files}" "${CONFIG:=}" "${DROP_IN:=auto}"
: "${CONTAINERD_DIR:=/etc/containerd/conf.d}" "${CONTAINERD_RESTART:=true}"
: "${ON_HOST:=nsenter --target 1 --mount --uts --ipc --net --}"

say() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }

# put FROM TO MODE: whole or not at all, and only if it differs. Says so in $changed.
put() {
	changed=no
	if cmp -s "$1" "$HOST$2"; then
		return
	fi
	mkdir -p "$(dirname "$HOST$2")"
	cp "$1" "$HOST$2.new"
	chmod "$3" "$HOST$2.new"
	sync "$HOST$2.new"
	mv -f "$HOST$2.new" "$HOST$2" # also over a program that runs
	changed=yes
	say "$2 is new"
}

restart=no reload=no
for f in soci-snapshotter-grpc soci; do
	put "$SRC/$f" "/usr/local/bin/$f" 755
	[ "$f" = soci ] || [ $changed = no ] || restart=yes
done
for f in soci-snapshotter.service soci-snapshotter.socket; do
	put "$FILES/$f" "/etc/systemd/system/$f" 644
	[ $changed = no ] || restart=yes reload=yes
done
if [ -n "$CONFIG" ]; then
	put "$CONFIG" /etc/soci-snapshotter-grpc/config.toml 600
	[ $changed = no ] || restart=yes
fi
[ $reload = no ] || $ON_HOST systemctl daemon-reload
$ON_HOST systemctl enable soci-snapshotter.socket soci-snapshotter.service
if [ $restart = yes ]; then
	# What containers use goes on being served: the unit keeps the mount.
	$ON_HOST systemctl restart soci-snapshotter.service
else
	$ON_HOST systemctl start soci-snapshotter.service
fi
$ON_HOST systemctl is-active --quiet soci-snapshotter.service || die "soci-snapshotter.service does not run: journalctl -u soci-snapshotter"

if [ "$DROP_IN" = auto ]; then
	version=$($ON_HOST containerd --version) || die "no containerd on the host; set containerd.dropIn"
	case $version in
	*" v2."* | *" 2."*) DROP_IN=2.x ;;
	*" v1."* | *" 1."*) DROP_IN=1.7 ;;
	*) die "set containerd.dropIn: $version" ;;
	esac
fi
[ "$DROP_IN" != none ] || exit 0
put "$FILES/containerd-$DROP_IN.toml" "$CONTAINERD_DIR/50-soci.toml" 644
if ! $ON_HOST containerd config dump | grep -q 'proxy_plugins.*soci'; then
	rm -f "$HOST$CONTAINERD_DIR/50-soci.toml" # to be new once that is mended
	die "containerd does not read $CONTAINERD_DIR: add imports = [\"$CONTAINERD_DIR/*.toml\"] to /etc/containerd/config.toml"
fi
if [ $changed = yes ]; then
	if [ "$CONTAINERD_RESTART" = true ]; then
		$ON_HOST systemctl restart containerd.service
	else
		say "restart containerd on this node"
	fi
fi
