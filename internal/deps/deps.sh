#!/bin/sh
# Installs libzmq's development files and pkg-config, which cgo needs to build github.com/pebbe/zmq4.
# Says and does nothing where they are there already.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }
present() { have pkg-config && pkg-config --exists libzmq; }

fail() {
	echo "deps: $1" >&2
	echo "deps: install libzmq's development package and pkg-config yourself, then try again:" >&2
	echo "deps: libzmq3-dev on Debian and Ubuntu, zeromq-devel on Fedora, RHEL and openSUSE," >&2
	echo "deps: zeromq-dev on Alpine, zeromq on Arch and Homebrew" >&2
	exit 1
}

# as_root runs a command as root; it asks for a password only where sudo does.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif have sudo; then
		sudo "$@"
	else
		fail "'$*' needs root, and there is no sudo"
	fi
}

install() {
	if have apt-get; then
		# A fresh image has no package lists, and an old list names packages that are gone. One
		# broken third-party source must not end this: the install says what is really missing.
		as_root apt-get -qq update || true
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends libzmq3-dev pkg-config
	elif have dnf; then
		as_root dnf install -y zeromq-devel pkgconf-pkg-config
	elif have yum; then
		as_root yum install -y zeromq-devel pkgconfig
	elif have apk; then
		as_root apk add --no-cache zeromq-dev pkgconf
	elif have pacman; then
		as_root pacman -Sy --noconfirm --needed zeromq pkgconf
	elif have zypper; then
		as_root zypper --non-interactive install zeromq-devel pkg-config
	elif have brew; then
		brew install zeromq pkgconf # Homebrew refuses root
	else
		fail "no package manager known here (apt-get, dnf, yum, apk, pacman, zypper, brew)"
	fi
}

if present; then exit 0; fi
echo "deps: pkg-config finds no libzmq: installing it"
install || fail "the package manager failed"
present || fail "pkg-config still does not find libzmq"
