/* What every program of ours needs to know of a frame: constants that vmlinux.h-less builds lack, and the rule
 * which frames a tenant's segment may carry. */
#ifndef CAAS_FRAMES_BPF_H
#define CAAS_FRAMES_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VID_MASK 0x0fff
#define VID_MIN 1
#define VID_MAX 4094

/* IPv4, ARP and IPv6 are what a segment carries. Everything else is either a tag in disguise (0x8100, 0x88a8,
 * 0x9100, 0x9200, LLC/SNAP) or nothing that a container of ours needs. */
static __always_inline int is_plain_ethertype(__u16 network_order)
{
	return network_order == bpf_htons(ETH_P_IP) || network_order == bpf_htons(ETH_P_ARP) ||
	       network_order == bpf_htons(ETH_P_IPV6);
}

/* The outer 802.1Q tag's VID, or -1: untagged, or tagged by another protocol (802.1ad has the same numbers). The
 * kernel has moved the outer tag out of the frame's bytes before any program runs. */
static __always_inline int outer_vid(const struct __sk_buff *skb)
{
	if (!skb->vlan_present || skb->vlan_proto != bpf_htons(ETH_P_8021Q))
		return -1;
	return skb->vlan_tci & VID_MASK;
}

#endif
