#!/bin/sh
# The last step of making a host image; mmdebstrap calls it with the image's root folder.
# Packages start nothing by themselves: a host runs what the lab or the playbooks start. Keys and identifiers are each
# host's own, made at its first boot. Nothing of this machine stays: no mirror, no proxy, no log.
set -eu
root=$1

mkdir -p "$root/etc/systemd/system-preset"
cat > "$root/etc/systemd/system-preset/00-lab.preset" <<'PRESET'
enable ssh.service
enable lab-host-keys.service
disable *
PRESET

cat > "$root/etc/systemd/system/lab-host-keys.service" <<'UNIT'
[Unit]
Description=Host keys of this host alone
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
RequiredBy=ssh.service
UNIT

chroot "$root" systemctl preset-all --preset-mode=full
chroot "$root" systemctl set-default multi-user.target
chroot "$root" systemctl mask getty.target console-getty.service systemd-networkd.service systemd-timesyncd.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer

rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
rm -rf "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* "$root/etc/apt/apt.conf.d/99mmdebstrap" \
    "$root"/var/lib/apt/lists/* "$root"/var/log/*
mkdir -p "$root/var/log/journal"
