#!/bin/sh
# Runs inside the guest as root: `guest.sh REPOSITORY PYTHON NAME ARGUMENTS [NAME ARGUMENTS]...`: each ARGUMENTS, one
# word quoted for the shell, is what follows `python -m` in the run called NAME. The guest's root is the host's, read-only over 9p without a
# cache: a second, cached export of it (tag `cached`) makes starting a program several times as fast.
set -u
repository=$1 python=$2
shift 2
root=$(mktemp -d)
mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=512000,ro cached "$root" || exit 1
for folder in proc sys dev run tmp; do mount --rbind "/$folder" "$root/$folder"; done
mkdir -p /run/caas-test
export REQUIRE_KINDS=vlan,ipip REQUIRE_CGROUP=2 CAAS_TEST_STATE=/run/caas-test PYTHONDONTWRITEBYTECODE=1 HOME=/run/caas-test
echo "=== guest: $(uname -r)"
while [ $# -gt 1 ]; do
	chroot "$root" /bin/sh -c "cd $repository && exec $python -m $2" 2>&1
	echo "=== $1: status $?"
	shift 2
done
echo "=== end"
