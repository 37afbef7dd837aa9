#!/bin/sh
# Installs what no Go module brings. Says and does nothing where it is there already.
#
#	deps.sh          libzmq's development files and pkg-config, which cgo needs to build github.com/pebbe/zmq4
#	deps.sh extras   what some tests are skipped without: pyzmq and CZMQ, peers that no one here wrote (INTEROP_PYTHON names a
#	                 Python of one's own), and systemd-analyze
set -eu

have() { command -v "$1" >/dev/null 2>&1; }

case "${1:-libzmq}" in
libzmq)
	missing="pkg-config finds no libzmq" still="pkg-config still does not find libzmq"
	present() { have pkg-config && pkg-config --exists libzmq; }
	apt="libzmq3-dev pkg-config"
	dnf="zeromq-devel pkgconf-pkg-config"
	yum="zeromq-devel pkgconfig"
	apk="zeromq-dev pkgconf"
	pacman="zeromq pkgconf"
	zypper="zeromq-devel pkg-config"
	brew="zeromq pkgconf"
	by_hand() {
		echo "deps: install libzmq's development package and pkg-config yourself, then try again:" >&2
		echo "deps: libzmq3-dev on Debian and Ubuntu, zeromq-devel on Fedora, RHEL and openSUSE," >&2
		echo "deps: zeromq-dev on Alpine, zeromq on Arch and Homebrew" >&2
	}
	;;
extras)
	missing="pyzmq, CZMQ or systemd-analyze is missing" still="pyzmq, CZMQ or systemd-analyze is still missing"
	present() {
		"${INTEROP_PYTHON:-/usr/bin/python3}" -c 'import zmq' 2>/dev/null && have pkg-config && pkg-config --exists libczmq &&
			{ have systemd-analyze || ! have apt-get; }
	}
	apt="python3-zmq libczmq-dev systemd"
	dnf="python3-zmq czmq-devel"
	yum=$dnf
	apk="py3-pyzmq czmq-dev"
	pacman="python-pyzmq czmq"
	zypper="python3-pyzmq czmq-devel"
	brew="czmq" # pyzmq comes with pip there: see INTEROP_PYTHON
	by_hand() { echo "deps: install pyzmq and CZMQ's development package yourself: python3-zmq and libczmq-dev on Debian" >&2; }
	;;
*)
	echo "deps: nothing is known as '$1'" >&2
	exit 64
	;;
esac

fail() {
	echo "deps: $1" >&2
	by_hand
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

# The names of packages are words of their own, so they are not quoted here.
install() {
	if have apt-get; then
		# A fresh image has no package lists, and an old list names packages that are gone. One
		# broken third-party source must not end this: the install says what is really missing.
		as_root apt-get -qq update || true
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $apt
	elif have dnf; then
		as_root dnf install -y $dnf
	elif have yum; then
		as_root yum install -y $yum
	elif have apk; then
		as_root apk add --no-cache $apk
	elif have pacman; then
		as_root pacman -Sy --noconfirm --needed $pacman
	elif have zypper; then
		as_root zypper --non-interactive install $zypper
	elif have brew; then
		brew install $brew # Homebrew refuses root
	else
		fail "no package manager known here (apt-get, dnf, yum, apk, pacman, zypper, brew)"
	fi
}

if present; then exit 0; fi
echo "deps: $missing: installing it"
install || fail "the package manager failed"
present || fail "$still"
