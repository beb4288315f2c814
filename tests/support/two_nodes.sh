#!/usr/bin/env bash
# Two machines on one: each script runs in a network of its own; a cable, as it were, joins the two.
#   unshare --map-root-user --net bash two_nodes.sh FIRST.sh SECOND.sh STATUSES
# The first is 10.77.0.1 on the interface `cable`, the second 10.77.0.2. STATUSES gets the two exit statuses.
set -euo pipefail

unshare --net sleep infinity &
second=$!
trap 'kill "$second"' EXIT
until [[ "$(readlink "/proc/$second/ns/net")" != "$(readlink /proc/self/ns/net)" ]]; do sleep 0.05; done
ip link add cable type veth peer name cable netns "$second"
for number in 1 2; do
  inside=()
  if [[ $number == 2 ]]; then inside=(nsenter --target "$second" --net); fi
  "${inside[@]}" ip link set lo up
  "${inside[@]}" ip address add "10.77.0.$number/24" dev cable
  "${inside[@]}" ip link set cable up
done

statuses=(0 0)
nsenter --target "$second" --net bash "$2" &
other=$!
bash "$1" || statuses[0]=$?
wait "$other" || statuses[1]=$?
echo "${statuses[@]}" >"$3"
