#!/usr/bin/env bash
# Installs the programs of others that the tests try the servers with: clients, chronyd, xinetd. By root, on
# Debian and Ubuntu. What is missing is skipped by the tests, with its name.
set -euo pipefail

missing=() unpacked=()
# Not in root's home, where chronyd may not look once it is nobody.
clients=/var/cache/uloop-clients # its usr/sbin and usr/bin are for the PATH
export PATH=$PATH:/usr/sbin:/sbin:$clients/usr/sbin:$clients/usr/bin
for pair in nc:netcat-openbsd ncat:ncat socat:socat curl:curl perl:perl busybox:busybox toybox:toybox \
  rdate:rdate ntpdig:ntpsec-ntpdig ip:iproute2 unshare:util-linux ps:procps; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
perl -MNet::NTP -e1 2>/dev/null || missing+=(libnet-ntp-perl)
# Unpacked only: once installed they start a daemon, or set the clock when a network comes up.
for pair in chronyd:chrony xinetd:xinetd ntpdate:ntpsec-ntpdate; do
  command -v "${pair%%:*}" >/dev/null || unpacked+=("${pair##*:}")
done
if ((${#missing[@]} + ${#unpacked[@]} == 0)); then
  : # all are here
elif [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  apt-get update -q >/dev/null
  if ((${#unpacked[@]})); then
    mapfile -t -O "${#missing[@]}" missing < <(
      apt-cache depends "${unpacked[@]}" | sed -nE 's/^ *Depends: (lib[^ ]+|netbase)$/\1/p' | sort -u
    )
  fi
  if ((${#missing[@]})); then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-upgrade --no-install-recommends "${missing[@]}" >/dev/null
  fi
  for package in "${unpacked[@]}"; do
    archive=$(mktemp -d)
    (cd "$archive" && apt-get download -q -o APT::Sandbox::User=root "$package" >/dev/null && dpkg -x ./*.deb "$clients")
    rm -r "$archive"
  done
else
  echo "not run: the tests with ${missing[*]} ${unpacked[*]}, which can be installed by root on Debian only"
fi
