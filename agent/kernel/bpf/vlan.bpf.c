/* The BPF realisation of a `vlan` device: a veth pair whose near end carries the vlan's name.
 *
 *   bridge - eth1.100 (near) = far end --append--> trunk
 *   bridge - eth1.100 (near) = far end <--strip--- trunk
 *
 * append stands at the ingress of each far end, strip at the ingress of each trunk. Both find their way in maps keyed
 * by ifindex, so one load serves every trunk and vlan of a host, and a restarted agent adopts the maps. */
#include "frames.bpf.h"

#define PORTS_MAX 65536

struct tag {
	__u32 trunk; /* ifindex */
	__u32 vid;
};

/* (trunk, VID) -> ifindex of the far end */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tag);
	__type(value, __u32);
} vlan_far_ends SEC(".maps");

/* ifindex of the far end -> (trunk, VID) */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct tag);
} vlan_tags SEC(".maps");

/* Whatever is not sent on is dropped: a far end has no stack behind it that may see a tenant's frame. A frame that
 * already carries a tag would leave with two, and the inner one is the container's choice. */
SEC("tc")
int vlan_append(struct __sk_buff *skb)
{
	__u32 far = skb->ifindex;
	struct tag *tag = bpf_map_lookup_elem(&vlan_tags, &far);

	if (!tag || skb->vlan_present || !is_plain_ethertype(skb->protocol))
		return TC_ACT_SHOT;
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tag->vid))
		return TC_ACT_SHOT;
	return bpf_redirect(tag->trunk, 0);
}

/* The trunk may be the host's only link: whatever is not for one of our vlans goes on to the host's own stack, and
 * to whatever filters others have there (TC_ACT_UNSPEC: the next filter decides). */
SEC("tc")
int vlan_strip(struct __sk_buff *skb)
{
	struct tag key = { .trunk = skb->ifindex };
	int vid = outer_vid(skb);
	__u32 *far;

	if (vid < VID_MIN || vid > VID_MAX)
		return TC_ACT_UNSPEC;
	key.vid = vid;
	far = bpf_map_lookup_elem(&vlan_far_ends, &key);
	if (!far)
		return TC_ACT_UNSPEC;
	if (bpf_skb_vlan_pop(skb))
		return TC_ACT_SHOT;
	/* The kernel's pop moves a second tag into the place of the first, where skb->protocol does not show it. */
	if (skb->vlan_present || !is_plain_ethertype(skb->protocol))
		return TC_ACT_SHOT;
	return bpf_redirect(*far, 0);
}

char LICENSE[] SEC("license") = "GPL";
