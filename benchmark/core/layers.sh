#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the four layers that the measurements of the core run on, in DIR:
#   layers.sh DIR
#   base.tar.gz    Debian with python3          (../startup/torch.sh)
#   torch.tar.gz   python3-torch on top of it   (../startup/torch.sh)
#   node.tar.gz    a Node application's dependencies: tens of thousands of small files
#   jar.tar.gz     Java and its libraries: jars, which gzip can only store
# All are tar, then gzip -6 -n. Those that exist are kept.
#
# Needs root, debootstrap, a Debian mirror (as apt has it) and npm with its registry; 15 minutes and 6 GB, of which 1.3 GB stay.
#
# The same tar as other encoders compress it (pigz -6, igzip -1, libdeflate-gzip -6, Go's compress/gzip) is made by
# the benchmark: bin/core -only encoders DIR/base.tar.gz
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "${1:?usage: layers.sh DIR}"
cd "$1"

# layer NAME: packs ./NAME.dir into NAME.tar.gz, in one order and with one time, so that one tree gives one layer.
layer() {
	tar --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner -C "$1.dir" -cf - . | gzip -6 -n >"$1.tar.gz.tmp"
	mv "$1.tar.gz.tmp" "$1.tar.gz"
	rm -rf "$1.dir"
}

# The direct dependencies have exact versions, and nothing published after the date is chosen for the others.
make_node() {
	rm -rf node.dir
	mkdir -p node.dir/usr/src/app
	(
		cd node.dir/usr/src/app
		cat >package.json <<-'JSON'
			{
			  "name": "application",
			  "version": "1.0.0",
			  "private": true,
			  "dependencies": {
			    "@mui/icons-material": "6.1.0",
			    "@mui/material": "6.1.0",
			    "@nestjs/core": "10.4.0",
			    "aws-sdk": "2.1690.0",
			    "date-fns": "3.6.0",
			    "eslint": "9.10.0",
			    "express": "4.20.0",
			    "jest": "29.7.0",
			    "lodash": "4.17.21",
			    "next": "14.2.10",
			    "react": "18.3.1",
			    "react-dom": "18.3.1",
			    "rxjs": "7.8.1",
			    "three": "0.168.0",
			    "typescript": "5.6.2",
			    "vite": "5.4.5",
			    "webpack": "5.94.0"
			  }
			}
		JSON
		npm install --ignore-scripts --legacy-peer-deps --no-audit --no-fund --before=2025-12-31 --cache "$OLDPWD/node.cache"
	)
	rm -rf node.cache
	layer node
}

# Packages are taken apart, not installed, and of all that the named ones depend on those with jars are kept.
make_jar() {
	rm -rf jar.dir jar.debs
	mkdir -p jar.dir jar.debs/partial
	apt-get install --yes --download-only --no-install-recommends -qq \
		-o Dir::State::status=/dev/null -o Dir::Cache::archives="$PWD/jar.debs" -o APT::Sandbox::User=root \
		openjdk-17-jdk-headless maven gradle tomcat10 activemq kotlin scala groovy clojure closure-compiler \
		libspring-web-servlet-java libeclipse-jdt-ui-java libbatik-java libbcprov-java libderby-java libicu4j-java
	for deb in jar.debs/*.deb; do
		if dpkg-deb --fsys-tarfile "$deb" | tar -t | grep -E '\.jar$|/jvm/' >/dev/null; then
			dpkg-deb --extract "$deb" jar.dir
		fi
	done
	rm -rf jar.debs
	layer jar
}

[ -e node.tar.gz ] || make_node
[ -e jar.tar.gz ] || make_jar
"$here/../startup/torch.sh" .
