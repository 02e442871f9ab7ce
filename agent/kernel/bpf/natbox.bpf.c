/* NATBox's datapath: what may come in from the trunk, and which tag goes onto what leaves for it.
 *
 * natbox_in  (trunk, ingress): one 802.1Q tag that a cluster owns, a sender that is known there, our MAC. Answers ARP
 *            and echo for the gateway's address itself, so that no such address exists in the stack and any number of
 *            VLANs may use the same one. Strips the tag, leaves the owner in skb->mark, hands over to the stack.
 * natbox_out (trunk, egress): the owner from skb->mark, the container's MAC by (owner, address), exactly one tag.
 * Whatever is not said to pass is dropped and counted. agent/kernel/natbox_layout.py has the same structs and numbers.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "frames.bpf.h"

#define MARK_FLAGS 0xfffff000
#define MARK_OUT 0xca000000    /* from a VLAN; also what the stack itself answers to it (fwmark_reflect) */
#define MARK_IN 0xca100000     /* to a VLAN: set by nft from the connection's mark */
#define MARK_ANSWER 0xca200000 /* made here by natbox_in, complete with its tag */
#define STACK_SOURCE 0xc0000008 /* 192.0.0.8, RFC 7600: the stack's own source towards VLANs, never on a wire */
#define IP_OFFSET_MASK 0x1fff
#define ECHO_TTL 64
#define IP_ICMP 1
#define ICMP_ECHO 8
#define ICMP_ECHOREPLY 0
#define PACKET_HOST 0 /* linux/if_packet.h */
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define MARK_TEXT 112

enum reason {
	UNTAGGED,
	WRONG_TAG,
	RESERVED_VID,
	UNOWNED_VID,
	SECOND_TAG,
	WRONG_ETHERTYPE,
	MALFORMED,
	IP_OPTIONS,
	NOT_OUR_MAC,
	SPOOFED_SOURCE,
	ARP_SPOOFED,
	ARP_NOT_FOR_US,
	TO_GATEWAY,
	TO_OWN_SUBNET,
	TO_OTHER_VLAN,
	NO_UNICAST,
	NO_OWNER,
	NO_NEIGHBOUR,
	NOT_IPV4_OUT,
	KERNEL_REFUSED,
	REASONS,
};

struct vlan {
	__be32 gateway;
	__be32 mask;
	__u8 mac[ETH_ALEN];
	__u8 open; /* 0 while it is being made or removed: nothing passes */
	__u8 unused;
	char owner[MARK_TEXT];
};

struct neighbour_key {
	__u32 vid;
	__be32 address;
};

struct neighbour {
	__u8 mac[ETH_ALEN];
	__u16 unused;
};

struct subnet_key {
	__u32 prefix;
	__be32 address;
};

struct traffic {
	__u64 out_packets, out_bytes, in_packets, in_bytes;
};

struct drops {
	__u64 by_reason[32];
};

/* Hashes without preallocation: memory follows what is in them, and an element is replaced as a whole. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct vlan);
} nb_vlans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, struct neighbour_key);
	__type(value, struct neighbour);
} nb_neighbours SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct subnet_key);
	__type(value, __u32);
} nb_subnets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct traffic);
} nb_traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct drops);
} nb_drops SEC(".maps");

static __always_inline int drop(__u32 vid, enum reason reason)
{
	struct drops *drops = bpf_map_lookup_elem(&nb_drops, &vid);

	if (drops)
		__sync_fetch_and_add(&drops->by_reason[reason & 31], 1);
	return TC_ACT_SHOT;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	__u8 differs = 0;

	for (int i = 0; i < ETH_ALEN; i++) /* no memcmp here: BPF has no library to call */
		differs |= a[i] ^ b[i];
	return !differs;
}

/* The first *size* bytes as directly readable memory, or NULL. Invalidates earlier packet pointers. */
static __always_inline void *headers(struct __sk_buff *skb, __u32 size)
{
	void *data = (void *)(long)skb->data;

	if (data + size > (void *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, size))
			return NULL;
		data = (void *)(long)skb->data;
		if (data + size > (void *)(long)skb->data_end)
			return NULL;
	}
	return data;
}

static __always_inline bool is_neighbour(__u32 vid, __be32 address, const __u8 *mac)
{
	struct neighbour_key key = {.vid = vid, .address = address};
	struct neighbour *found = bpf_map_lookup_elem(&nb_neighbours, &key);

	return found && same_mac(found->mac, mac);
}

/* Send the frame, now an answer of ours, back with a tag of our own making: the sender's priority bits go. */
static __always_inline int answer(struct __sk_buff *skb, __u32 vid)
{
	if (bpf_skb_vlan_pop(skb) || bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), vid))
		return drop(vid, KERNEL_REFUSED);
	skb->mark = MARK_ANSWER | vid;
	return bpf_redirect(skb->ifindex, 0);
}

struct arp_frame { /* RFC 826 for Ethernet and IPv4 */
	struct ethhdr eth;
	__be16 hardware, protocol;
	__u8 hardware_size, protocol_size;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline int from_trunk_arp(struct __sk_buff *skb, __u32 vid, const struct vlan *vlan)
{
	struct arp_frame *frame = headers(skb, sizeof(*frame));

	if (!frame || frame->hardware != bpf_htons(1) || frame->protocol != bpf_htons(ETH_P_IP) ||
	    frame->hardware_size != ETH_ALEN || frame->protocol_size != sizeof(__be32))
		return drop(vid, MALFORMED);
	if (frame->operation != bpf_htons(ARP_REQUEST) || frame->target != vlan->gateway)
		return drop(vid, ARP_NOT_FOR_US);
	if (!same_mac(frame->sender_mac, frame->eth.h_source))
		return drop(vid, ARP_SPOOFED);
	/* Sender 0.0.0.0 is RFC 5227's probe: "does anybody have this address?" must hear that we do. */
	if (frame->sender && !is_neighbour(vid, frame->sender, frame->sender_mac))
		return drop(vid, ARP_SPOOFED);
	frame->operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(frame->eth.h_dest, frame->sender_mac, ETH_ALEN);
	__builtin_memcpy(frame->eth.h_source, vlan->mac, ETH_ALEN);
	__builtin_memcpy(frame->target_mac, frame->sender_mac, ETH_ALEN);
	__builtin_memcpy(frame->sender_mac, vlan->mac, ETH_ALEN);
	frame->target = frame->sender;
	frame->sender = vlan->gateway;
	return answer(skb, vid);
}

struct ip_frame {
	struct ethhdr eth;
	struct iphdr ip;
} __attribute__((packed));

#define IP_CHECK_AT (offsetof(struct ip_frame, ip) + offsetof(struct iphdr, check))
#define IP_TTL_AT (offsetof(struct ip_frame, ip) + offsetof(struct iphdr, ttl))
#define IP_SOURCE_AT (offsetof(struct ip_frame, ip) + offsetof(struct iphdr, saddr))
#define ICMP_AT sizeof(struct ip_frame)

struct icmp { /* RFC 792, what all its messages begin with */
	__u8 type, code;
	__sum16 checksum;
};

/* An echo request to the gateway's address becomes the reply in place. Its later fragments, whose payload does not
 * change, are turned round as they are: the sum covers only what the first fragment's type adds to it. */
static __always_inline int echo(struct __sk_buff *skb, __u32 vid, const struct vlan *vlan, struct ip_frame *frame)
{
	bool first = !(frame->ip.frag_off & bpf_htons(IP_OFFSET_MASK));
	__be16 old_ttl, new_ttl = bpf_htons(ECHO_TTL << 8 | IP_ICMP);
	__be32 asker = frame->ip.saddr;

	__builtin_memcpy(&old_ttl, &frame->ip.ttl, sizeof(old_ttl));
	__builtin_memcpy(frame->eth.h_dest, frame->eth.h_source, ETH_ALEN);
	__builtin_memcpy(frame->eth.h_source, vlan->mac, ETH_ALEN);
	frame->ip.saddr = frame->ip.daddr;
	frame->ip.daddr = asker;
	frame->ip.ttl = ECHO_TTL;
	if (bpf_l3_csum_replace(skb, IP_CHECK_AT, old_ttl, new_ttl, sizeof(old_ttl)))
		return drop(vid, KERNEL_REFUSED);
	if (first) {
		struct icmp *icmp = headers(skb, ICMP_AT + sizeof(*icmp));
		if (!icmp)
			return drop(vid, MALFORMED);
		icmp = (void *)icmp + ICMP_AT;
		if (icmp->type != ICMP_ECHO || icmp->code)
			return drop(vid, TO_GATEWAY);
		icmp->type = ICMP_ECHOREPLY;
		if (bpf_l4_csum_replace(skb, ICMP_AT + offsetof(struct icmp, checksum), bpf_htons(ICMP_ECHO << 8),
					bpf_htons(ICMP_ECHOREPLY << 8), sizeof(__be16)))
			return drop(vid, KERNEL_REFUSED);
	}
	return answer(skb, vid);
}

static __always_inline bool is_unicast(__be32 address)
{
	__u32 first = bpf_ntohl(address) >> 24;

	return first != 0 && first != 127 && first < 224;
}

static __always_inline void count(__u32 vid, struct __sk_buff *skb, bool out)
{
	struct traffic *traffic = bpf_map_lookup_elem(&nb_traffic, &vid);
	__u32 segments = skb->gso_segs ? skb->gso_segs : 1;
	__u32 bytes = skb->len - ETH_HLEN;

	if (!traffic)
		return;
	if (out) {
		traffic->out_packets += segments;
		traffic->out_bytes += bytes;
	} else {
		traffic->in_packets += segments;
		traffic->in_bytes += bytes;
	}
}

static __always_inline int from_trunk_ip(struct __sk_buff *skb, __u32 vid, const struct vlan *vlan)
{
	struct ip_frame *frame = headers(skb, sizeof(*frame));
	struct subnet_key subnet = {.prefix = 32};

	if (!frame || frame->ip.version != 4 || frame->ip.ihl < 5 || bpf_ntohs(frame->ip.tot_len) < sizeof(frame->ip))
		return drop(vid, MALFORMED);
	if (!same_mac(frame->eth.h_dest, vlan->mac))
		return drop(vid, NOT_OUR_MAC);
	if (!is_neighbour(vid, frame->ip.saddr, frame->eth.h_source))
		return drop(vid, SPOOFED_SOURCE);
	if (frame->ip.ihl != 5)
		return drop(vid, IP_OPTIONS); /* source routes above all */
	if (frame->ip.daddr == vlan->gateway)
		return frame->ip.protocol == IP_ICMP ? echo(skb, vid, vlan, frame) : drop(vid, TO_GATEWAY);
	if (!((frame->ip.daddr ^ vlan->gateway) & vlan->mask))
		return drop(vid, TO_OWN_SUBNET);
	if (!is_unicast(frame->ip.daddr))
		return drop(vid, NO_UNICAST);
	subnet.address = frame->ip.daddr;
	if (bpf_map_lookup_elem(&nb_subnets, &subnet))
		return drop(vid, TO_OTHER_VLAN);
	if (bpf_skb_vlan_pop(skb))
		return drop(vid, KERNEL_REFUSED);
	if (skb->vlan_present) /* the pop moves an inner tag to where the outer one was */
		return drop(vid, SECOND_TAG);
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	skb->mark = MARK_OUT | vid;
	count(vid, skb, true);
	return TC_ACT_OK;
}

SEC("tc")
int natbox_in(struct __sk_buff *skb)
{
	int tagged = outer_vid(skb);
	struct ethhdr *eth;
	struct vlan *vlan;
	__u32 vid;

	if (tagged < 0)
		return drop(0, skb->vlan_present ? WRONG_TAG : UNTAGGED);
	vid = tagged;
	if (vid < VID_MIN || vid > VID_MAX)
		return drop(0, RESERVED_VID);
	vlan = bpf_map_lookup_elem(&nb_vlans, &vid);
	if (!vlan || !vlan->open)
		return drop(vid, UNOWNED_VID);
	eth = headers(skb, sizeof(*eth));
	if (!eth)
		return drop(vid, MALFORMED);
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
		return from_trunk_ip(skb, vid, vlan);
	case bpf_htons(ETH_P_ARP):
		return from_trunk_arp(skb, vid, vlan);
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
	case bpf_htons(ETH_P_QINQ1):
	case bpf_htons(ETH_P_QINQ2):
	case bpf_htons(ETH_P_QINQ3):
		return drop(vid, SECOND_TAG);
	default:
		return drop(vid, WRONG_ETHERTYPE);
	}
}

SEC("tc")
int natbox_out(struct __sk_buff *skb)
{
	__u32 flag = skb->mark & MARK_FLAGS, vid = skb->mark & VID_MASK;
	struct neighbour_key key = {.vid = vid};
	struct neighbour *neighbour;
	struct ip_frame *frame;
	struct vlan *vlan;

	if (flag == MARK_ANSWER && skb->vlan_present && skb->vlan_tci == vid) {
		skb->mark = 0;
		return TC_ACT_OK;
	}
	if (flag != MARK_OUT && flag != MARK_IN)
		return drop(0, NO_OWNER);
	vlan = bpf_map_lookup_elem(&nb_vlans, &vid);
	if (!vlan || !vlan->open)
		return drop(vid, NO_OWNER);
	frame = headers(skb, sizeof(*frame));
	if (!frame || skb->vlan_present || frame->eth.h_proto != bpf_htons(ETH_P_IP) || frame->ip.version != 4)
		return drop(vid, NOT_IPV4_OUT);
	key.address = frame->ip.daddr;
	neighbour = bpf_map_lookup_elem(&nb_neighbours, &key);
	if (!neighbour)
		return drop(vid, NO_NEIGHBOUR);
	__builtin_memcpy(frame->eth.h_dest, neighbour->mac, ETH_ALEN);
	__builtin_memcpy(frame->eth.h_source, vlan->mac, ETH_ALEN);
	if (flag == MARK_OUT && frame->ip.saddr == bpf_htonl(STACK_SOURCE)) {
		frame->ip.saddr = vlan->gateway;
		if (bpf_l3_csum_replace(skb, IP_CHECK_AT, bpf_htonl(STACK_SOURCE), vlan->gateway, sizeof(__be32)))
			return drop(vid, KERNEL_REFUSED);
	}
	count(vid, skb, false);
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), vid))
		return drop(vid, KERNEL_REFUSED);
	skb->mark = 0;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
