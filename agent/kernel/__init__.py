"""The one door to the kernel: netlink, nftables, BPF, sysctl, probing. Nothing else in the project touches them."""
