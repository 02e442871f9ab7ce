/* NATBox's datapath: what may come in from the trunk, and which tag goes onto what leaves for it.
 *
 * natbox_in  (trunk, ingress): one 802.1Q tag that a cluster owns, a sender that is known there, our MAC. Answers ARP
 *            and echo for the gateway's address itself, so that no such address exists in the stack and any number of
 *            VLANs may use the same one. Strips the tag and gives the sender an inner address that says its owner.
 * natbox_out (trunk, egress): takes owner and container from the inner address, puts the real one back, the
 *            container's MAC in front, and appends exactly one tag.
 * Inner address: 240.0.0.0/4 | VID << 16 | the low 16 bits of the container's own (a subnet is a /16 or smaller). To
 * the stack every container of every VLAN is another host: routing, fragments and connections cannot mix them up.
 * Where there are two NATBoxes (docs/adr/0012), the gate decides before anything else; the open one's epoch, heard on
 * the trunk, closes another. Whatever is not said to pass is dropped and counted. agent/kernel/natbox_layout.py has the same structs and numbers.
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

#define MARK_OUT 0xca000000    /* with the VID: from a VLAN. The connection keeps it, so that a VLAN's can be ended */
#define MARK_ANSWER 0xca200000 /* made here by natbox_in, complete with its tag */
#define INNER 0xf0000000       /* 240.0.0.0/4 */
#define INNER_VID_SHIFT 16
#define INNER_HOST 0x0000ffff
#define STACK_SOURCE 0xf0000001 /* 240.0.0.1: what the stack calls itself towards VLANs; no VLAN has VID 0 */
#define IP_OFFSET_MASK 0x1fff
#define ECHO_TTL 64
#define IP_ICMP 1
#define IP_TCP 6
#define IP_UDP 17
#define IP_DCCP 33
#define IP_UDPLITE 136
#define TCP_CHECK 16 /* offset of the sum; the others that sum the addresses have it at 6 */
#define UDP_CHECK 6
#define ICMP_ECHO 8
#define ICMP_ECHOREPLY 0
#define ETH_P_NATBOX 0x88b5 /* IEEE 802, local experimental EtherType 1: untagged, between NATBoxes */
#define CONTROL_MAGIC 0x63616173
#define CONTROL_CLAIM 1  /* "I am open at this epoch" */
#define CONTROL_ASK 2    /* "is anybody open?" */
#define CONTROL_ANSWER 3 /* "I am" */
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
	GATE_CLOSED,
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

/* Epoch 0: nobody has said that there are two. `heard` is the epoch of the one that closed it; `mac` is the trunk's. */
struct gate {
	__u64 epoch, heard;
	__u32 closed;
	__u8 mac[ETH_ALEN], unused[6];
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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate);
} nb_gate SEC(".maps");

static __always_inline struct gate *the_gate(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&nb_gate, &only);
}

static __always_inline bool is_closed(void)
{
	struct gate *gate = the_gate();

	return !gate || gate->closed;
}

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

#define IP_CHECK_AT (ETH_HLEN + offsetof(struct iphdr, check))
#define ICMP_AT (ETH_HLEN + sizeof(struct iphdr))
#define ABOUT_AT (ICMP_AT + 8) /* RFC 792: an error's header, then the beginning of the packet that it is about */

struct icmp { /* RFC 792, what all its messages begin with */
	__u8 type, code;
	__sum16 checksum;
};

/* An echo request to the gateway's address becomes the reply in place. Its later fragments, whose payload does not
 * change, are turned round as they are: the sum covers only what the first fragment's type adds to it. */
static __always_inline int echo(struct __sk_buff *skb, __u32 vid, const struct vlan *vlan, struct ethhdr *eth)
{
	struct iphdr *ip = (void *)(eth + 1);
	bool first = !(ip->frag_off & bpf_htons(IP_OFFSET_MASK));
	__be16 old_ttl, new_ttl = bpf_htons(ECHO_TTL << 8 | IP_ICMP);
	__be32 asker = ip->saddr;

	__builtin_memcpy(&old_ttl, &ip->ttl, sizeof(old_ttl));
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, vlan->mac, ETH_ALEN);
	ip->saddr = ip->daddr;
	ip->daddr = asker;
	ip->ttl = ECHO_TTL;
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

/* Put *after* in the place of *before* at *address* in the header, whose sum follows (RFC 1624, equation 3). */
static __always_inline void replace_address(struct iphdr *ip, __be32 *address, __be32 before, __be32 after)
{
	__u32 sum = (__u16)~ip->check;

	sum += (__u16)~before + (__u16)(~before >> 16) + (__u16)after + (after >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
	*address = after;
}

/* One of the packet's addresses was *before* and is *after*: the sum of what it carries follows. False: it ends too
 * soon. Only the helper knows whether the sum is complete or left to a card. */
static __always_inline bool replace_sum(struct __sk_buff *skb, __u8 protocol, bool first, __be32 before, __be32 after)
{
	__u32 at = ICMP_AT + UDP_CHECK;
	__u64 flags = BPF_F_PSEUDO_HDR | sizeof(before);

	if (!first)
		return true;
	switch (protocol) {
	case IP_TCP:
		at = ICMP_AT + TCP_CHECK;
		break;
	case IP_UDP:
	case IP_UDPLITE:
		flags |= BPF_F_MARK_MANGLED_0;
		break;
	case IP_DCCP:
		break;
	default:
		return true;
	}
	return !bpf_l4_csum_replace(skb, at, before, after, flags);
}

static __always_inline bool is_error(__u8 type)
{
	return type == 3 || type == 4 || type == 11 || type == 12;
}

/* The packet that an ICMP error is about has the address, too: out of a VLAN as destination, into it as source. Its
 * header's own sum makes up for the change, so that the sum of the ICMP message stays right. */
static __always_inline bool replace_in_error(struct __sk_buff *skb, bool out, __be32 before, __be32 after)
{
	struct icmp *icmp = headers(skb, ICMP_AT + sizeof(*icmp));
	struct iphdr *about;
	__be32 *found;

	if (!icmp)
		return false;
	icmp = (void *)icmp + ICMP_AT;
	if (!is_error(icmp->type))
		return true;
	about = headers(skb, ABOUT_AT + sizeof(*about));
	if (!about)
		return false;
	about = (void *)about + ABOUT_AT;
	found = out ? &about->daddr : &about->saddr;
	if (*found == before) /* if not, it is about nothing of this container's, and conntrack drops it */
		replace_address(about, found, before, after);
	return true;
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
	struct ethhdr *eth = headers(skb, ICMP_AT);
	struct iphdr *ip = (void *)(eth + 1);
	struct subnet_key subnet = {.prefix = 32};
	__be32 own, inner;
	__u8 protocol;
	bool first;

	if (!eth || ip->version != 4 || ip->ihl < 5 || bpf_ntohs(ip->tot_len) < sizeof(*ip))
		return drop(vid, MALFORMED);
	if (!same_mac(eth->h_dest, vlan->mac))
		return drop(vid, NOT_OUR_MAC);
	if (!is_neighbour(vid, ip->saddr, eth->h_source))
		return drop(vid, SPOOFED_SOURCE);
	if (ip->ihl != 5)
		return drop(vid, IP_OPTIONS); /* source routes above all */
	if (ip->daddr == vlan->gateway)
		return ip->protocol == IP_ICMP ? echo(skb, vid, vlan, eth) : drop(vid, TO_GATEWAY);
	if (!((ip->daddr ^ vlan->gateway) & vlan->mask))
		return drop(vid, TO_OWN_SUBNET);
	if (!is_unicast(ip->daddr))
		return drop(vid, NO_UNICAST);
	subnet.address = ip->daddr;
	if (bpf_map_lookup_elem(&nb_subnets, &subnet))
		return drop(vid, TO_OTHER_VLAN);
	if (bpf_skb_vlan_pop(skb))
		return drop(vid, KERNEL_REFUSED);
	if (skb->vlan_present) /* the pop moves an inner tag to where the outer one was */
		return drop(vid, SECOND_TAG);
	eth = headers(skb, ICMP_AT);
	if (!eth)
		return drop(vid, MALFORMED);
	ip = (void *)(eth + 1);
	own = ip->saddr;
	inner = bpf_htonl(INNER | vid << INNER_VID_SHIFT | (bpf_ntohl(own) & INNER_HOST));
	protocol = ip->protocol;
	first = !(ip->frag_off & bpf_htons(IP_OFFSET_MASK));
	replace_address(ip, &ip->saddr, own, inner);
	if (!replace_sum(skb, protocol, first, own, inner) ||
	    (protocol == IP_ICMP && first && !replace_in_error(skb, true, own, inner)))
		return drop(vid, MALFORMED);
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	skb->mark = MARK_OUT | vid;
	count(vid, skb, true);
	return TC_ACT_OK;
}

struct control_frame {
	struct ethhdr eth;
	__be32 magic;
	__be16 kind, unused;
	__be64 epoch;
} __attribute__((packed));

/* What NATBoxes say to each other, and nobody in a VLAN can: it has no tag. */
static __always_inline int from_trunk_untagged(struct __sk_buff *skb)
{
	struct control_frame *frame = headers(skb, sizeof(*frame));
	struct gate *gate = the_gate();
	__u64 epoch;

	if (!frame || !gate || frame->eth.h_proto != bpf_htons(ETH_P_NATBOX) ||
	    frame->magic != bpf_htonl(CONTROL_MAGIC))
		return drop(0, UNTAGGED);
	epoch = bpf_be64_to_cpu(frame->epoch);
	if (frame->kind == bpf_htons(CONTROL_CLAIM) && gate->epoch && epoch > gate->epoch) {
		gate->heard = epoch;
		gate->closed = 1;
	}
	if (frame->kind != bpf_htons(CONTROL_ASK) || gate->closed || !gate->epoch)
		return TC_ACT_SHOT;
	frame->kind = bpf_htons(CONTROL_ANSWER);
	frame->epoch = bpf_cpu_to_be64(gate->epoch);
	__builtin_memcpy(frame->eth.h_dest, frame->eth.h_source, ETH_ALEN);
	__builtin_memcpy(frame->eth.h_source, gate->mac, ETH_ALEN);
	skb->mark = MARK_ANSWER;
	return bpf_redirect(skb->ifindex, 0);
}

SEC("tc")
int natbox_in(struct __sk_buff *skb)
{
	int tagged = outer_vid(skb);
	struct ethhdr *eth;
	struct vlan *vlan;
	__u32 vid;

	if (tagged < 0)
		return skb->vlan_present ? drop(0, WRONG_TAG) : from_trunk_untagged(skb);
	vid = tagged;
	if (vid < VID_MIN || vid > VID_MAX)
		return drop(0, RESERVED_VID);
	if (is_closed())
		return drop(vid, GATE_CLOSED);
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
	__u32 vid = skb->mark & VID_MASK, address;
	struct neighbour_key key = {};
	struct neighbour *neighbour;
	struct ethhdr *eth;
	struct iphdr *ip;
	struct vlan *vlan;
	__be32 inner, source;
	__u8 protocol;
	bool first;

	if (skb->mark == (MARK_ANSWER | vid) && (vid ? skb->vlan_present && skb->vlan_tci == vid : !skb->vlan_present)) {
		skb->mark = 0;
		return TC_ACT_OK;
	}
	eth = headers(skb, ICMP_AT);
	ip = (void *)(eth + 1);
	if (!eth || skb->vlan_present || eth->h_proto != bpf_htons(ETH_P_IP) || ip->version != 4)
		return drop(0, NOT_IPV4_OUT);
	inner = ip->daddr;
	address = bpf_ntohl(inner);
	vid = address >> INNER_VID_SHIFT & VID_MASK;
	if ((address & INNER) != INNER)
		return drop(0, NO_OWNER);
	if (is_closed())
		return drop(vid, GATE_CLOSED);
	vlan = bpf_map_lookup_elem(&nb_vlans, &vid);
	if (!vlan || !vlan->open)
		return drop(vid, NO_OWNER);
	key.vid = vid;
	key.address = (vlan->gateway & vlan->mask) | (bpf_htonl(address & INNER_HOST) & ~vlan->mask);
	neighbour = bpf_map_lookup_elem(&nb_neighbours, &key);
	if (!neighbour || (bpf_ntohl(key.address) & INNER_HOST) != (address & INNER_HOST))
		return drop(vid, NO_NEIGHBOUR);
	__builtin_memcpy(eth->h_dest, neighbour->mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, vlan->mac, ETH_ALEN);
	source = ip->saddr;
	protocol = ip->protocol;
	first = !(ip->frag_off & bpf_htons(IP_OFFSET_MASK));
	replace_address(ip, &ip->daddr, inner, key.address);
	if (source == bpf_htonl(STACK_SOURCE)) /* ICMP alone: nft lets nothing else out. Its sum leaves addresses out */
		replace_address(ip, &ip->saddr, source, vlan->gateway);
	if (!replace_sum(skb, protocol, first, inner, key.address) ||
	    (protocol == IP_ICMP && first && !replace_in_error(skb, false, inner, key.address)))
		return drop(vid, MALFORMED);
	count(vid, skb, false);
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), vid))
		return drop(vid, KERNEL_REFUSED);
	skb->mark = 0;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
