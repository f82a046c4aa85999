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

# What is to be done since a file is new, by a run that did not get so far, too: a file for
# each is made before the new one is in place, and removed when it is done.
PENDING=/var/lib/soci-snapshotter-install
later() {
	mkdir -p "$HOST$PENDING"
	: > "$HOST$PENDING/$1"
	sync "$HOST$PENDING/$1" "$HOST$PENDING"
}
due() { [ -e "$HOST$PENDING/$1" ]; }
done_with() { rm -f "$HOST$PENDING/$1"; }

# put FROM TO MODE WHAT...: whole or not at all, and only if it differs. WHAT is due then.
# Says so in $changed.
put() {
	changed=no
	if cmp -s "$1" "$HOST$2"; then
		return
	fi
	for what in $4; do
		later "$what"
	done
	mkdir -p "$(dirname "$HOST$2")"
	cp "$1" "$HOST$2.new"
	chmod "$3" "$HOST$2.new"
	sync "$HOST$2.new"
	mv -f "$HOST$2.new" "$HOST$2" # also over a program that runs
	changed=yes
	say "$2 is new"
}

put "$SRC/soci-snapshotter-grpc" /usr/local/bin/soci-snapshotter-grpc 755 restart
put "$SRC/soci" /usr/local/bin/soci 755 ""
for f in soci-snapshotter.service soci-snapshotter.socket; do
	put "$FILES/$f" "/etc/systemd/system/$f" 644 "reload restart"
done
if [ -n "$CONFIG" ]; then
	put "$CONFIG" /etc/soci-snapshotter-grpc/config.toml 600 restart
fi
if due reload; then
	$ON_HOST systemctl daemon-reload
	done_with reload
fi
$ON_HOST systemctl enable soci-snapshotter.socket soci-snapshotter.service
if due restart; then
	# What containers use goes on being served: the unit keeps the mount.
	$ON_HOST systemctl restart soci-snapshotter.service
	done_with restart
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
put "$FILES/containerd-$DROP_IN.toml" "$CONTAINERD_DIR/50-soci.toml" 644 containerd
config=$($ON_HOST containerd config dump) || die "containerd config dump does not work on the host"
if ! echo "$config" | grep -q 'proxy_plugins.*soci'; then
	[ $changed = no ] || rm -f "$HOST$CONTAINERD_DIR/50-soci.toml" # to be new once that is mended
	die "containerd does not read $CONTAINERD_DIR: add imports = [\"$CONTAINERD_DIR/*.toml\"] to /etc/containerd/config.toml"
fi
if due containerd; then
	if [ "$CONTAINERD_RESTART" = true ]; then
		$ON_HOST systemctl restart containerd.service
	else
		say "restart containerd on this node"
	fi
	done_with containerd
fi
