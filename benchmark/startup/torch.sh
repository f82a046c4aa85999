#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the two layers of a 2 GB image, Debian with python3 and python3-torch, as base.tar.gz and torch.tar.gz in DIR:
#   torch.sh DIR
# Needs root, debootstrap and a Debian mirror; takes about six minutes and 6 GB, of which 0.7 GB stay.
set -eu
mkdir -p "${1:?usage: torch.sh DIR}"
cd "$1"
[ ! -e torch.tar.gz ] || exit 0

mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
rm -rf base up work merged
debootstrap --variant=minbase --include=python3 bookworm base "$mirror"
tar --numeric-owner --xattrs -C base -cf - . | gzip -6 -n >base.tar.gz.tmp

mkdir up work merged
mount -t overlay overlay -o lowerdir=base,upperdir=up,workdir=work merged
trap 'umount -R -l merged' EXIT
mount --bind /dev merged/dev
mount -t proc proc merged/proc
# Reach the mirror as this machine does.
cp /etc/hosts /etc/resolv.conf merged/etc/
for f in /etc/apt/apt.conf.d/*; do
	case $f in *proxy* | *registry*) cp "$f" merged/etc/apt/apt.conf.d/ ;; esac
done
chroot merged apt-get update
DEBIAN_FRONTEND=noninteractive chroot merged apt-get install -y --no-install-recommends python3-torch python3-scipy
chroot merged apt-get clean
umount -R merged
trap - EXIT
tar --numeric-owner --xattrs -C up -cf - . | gzip -6 -n >torch.tar.gz.tmp
mv base.tar.gz.tmp base.tar.gz
mv torch.tar.gz.tmp torch.tar.gz
rm -rf base up work merged
