/* The BPF realisation of an `ipip` device (RFC 2003): a veth pair whose near end carries the tunnel's name.
 *
 *   routes - t192.0.2.2 (near) --wrap--> underlay
 *   routes - t192.0.2.2 (near) <--unwrap-- underlay        or, past routes and nftables:
 *   container's bridge          --enter--> underlay
 *   container's eth0           <--unwrap-- underlay
 *
 * wrap stands at the egress of each near end, unwrap at the ingress of each link of the underlay, enter at that of the
 * containers' bridges. A near end's peer is only there to make a link of it. What clusters share is in maps, so one load
 * serves every tunnel of a host, and a restarted agent adopts the maps. Addresses are in network order. */
#include "frames.bpf.h"
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <stddef.h>

#define AF_INET 2
#define TUNNELS_MAX 4096
#define BLOCKS_MAX 65536
#define TTL 64
#define FRAGMENT_MASK 0x3fff /* more fragments, and the offset */
#define OFFSET_MASK 0x1fff
#define TCP_FLAGS 13 /* where they are in its header */
#define TCP_SYN 2
#define DONT_FRAGMENT 0x4000
#define ECN_MASK 3
#define ECN_CE 3
#define ECN_ECT_0 2
#define OUTER ETH_HLEN
#define INNER (ETH_HLEN + sizeof(struct iphdr))

/* Why a packet is dropped: the places in ipip_drops. agent/kernel/ipip_bpf.py has the same order. */
enum reason { TAKEN, SOURCE, OWN_SOURCE, FRAGMENT, OPTIONS, NESTED, CHECKSUM, MALFORMED, REASONS };

/* What ipip_sources says of a source; agent/kernel/ipip_bpf.py writes these. */
enum verdict { THEIRS = 1, OURS };

struct ends {
	__be32 local;
	__be32 remote; /* 0 in ipip_tunnels: what the packet's route says */
};

struct port {
	__u32 ifindex;
	__u8 to[ETH_ALEN]; /* the MAC of what takes the packets, and that of who seems to send them */
	__u8 from[ETH_ALEN];
};

struct source {
	__u32 length; /* of the key that follows, in bits */
	struct ends ends;
	__be32 address;
};

struct block {
	__u32 length;
	__be32 address;
};

struct leaver {
	__u32 bridge;
	__be32 address;
};

struct way {
	__u32 length;
	__u32 bridge;
	__be32 address;
};

/* ifindex of the near end -> its ends */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TUNNELS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct ends);
} ipip_tunnels SEC(".maps");

/* whom packets are taken from -> the near end that they come out of, with its MAC in `to` */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLOCKS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ends);
	__type(value, struct port);
} ipip_ends SEC(".maps");

/* the inner sources that each of them may have, and those among them that are this host's own: one of enum verdict */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, BLOCKS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source);
	__type(value, __u32);
} ipip_sources SEC(".maps");

/* this host's own blocks, which no packet from elsewhere can come from */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, BLOCKS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct block);
	__type(value, __u32);
} ipip_own SEC(".maps");

/* address of a container of this host -> its port */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLOCKS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, struct port);
} ipip_ports SEC(".maps");

/* the containers, by bridge and address, whose packets may go straight into tunnels: nothing translates what they send */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLOCKS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct leaver);
	__type(value, __u32);
} ipip_leavers SEC(".maps");

/* and whereto, by bridge */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, BLOCKS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct way);
	__type(value, __u32);
} ipip_ways SEC(".maps");

/* reason -> packets */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} ipip_drops SEC(".maps");

/* The ones' complement sum over a header without options: 0 where its checksum is right (RFC 1071). */
static __always_inline __u16 sum_header(const struct iphdr *header)
{
	const __u16 *words = (const __u16 *)header;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < (int)(sizeof(*header) / 2); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Straight from the packet, unless it is in pieces. */
static __always_inline int read_header(struct __sk_buff *skb, __u32 offset, struct iphdr *header)
{
	void *start = (void *)(long)skb->data + offset;

	if (start + sizeof(*header) > (void *)(long)skb->data_end)
		return bpf_skb_load_bytes(skb, offset, header, sizeof(*header));
	__builtin_memcpy(header, start, sizeof(*header));
	return 0;
}

static __always_inline enum reason check(struct __sk_buff *skb, const struct iphdr *outer, struct iphdr *inner)
{
	struct source source = { .length = 8 * (sizeof(source) - sizeof(source.length)) };
	struct block block = { .length = 32 };
	__u32 length = bpf_ntohs(outer->tot_len);
	__u32 inner_length, *verdict;

	if (outer->ihl < 5)
		return MALFORMED;
	if (outer->ihl > 5)
		return OPTIONS;
	if (sum_header(outer))
		return CHECKSUM;
	if (outer->frag_off & bpf_htons(FRAGMENT_MASK))
		return FRAGMENT;
	if (length < 2 * sizeof(*outer) || length > skb->len - ETH_HLEN)
		return MALFORMED;
	if (read_header(skb, INNER, inner))
		return MALFORMED;
	inner_length = bpf_ntohs(inner->tot_len);
	if (inner->version != 4 || inner->ihl < 5 || inner_length < 4 * inner->ihl ||
	    inner_length > length - sizeof(*outer))
		return MALFORMED;
	/* With options, whose sum the host's own stack checks, no packet goes past that. */
	if (inner->ihl == 5 && sum_header(inner))
		return CHECKSUM;
	if (inner->protocol == IPPROTO_IPIP)
		return NESTED;
	source.ends.local = outer->daddr;
	source.ends.remote = outer->saddr;
	source.address = inner->saddr;
	verdict = bpf_map_lookup_elem(&ipip_sources, &source);
	if (!verdict) {
		block.address = inner->saddr;
		return bpf_map_lookup_elem(&ipip_own, &block) ? OWN_SOURCE : SOURCE;
	}
	if (*verdict != THEIRS)
		return OWN_SOURCE;
	/* RFC 6040, figure 4: congestion on the way of a packet whose ends know nothing of it. */
	if ((outer->tos & ECN_MASK) == ECN_CE && !(inner->tos & ECN_MASK))
		return MALFORMED;
	return TAKEN;
}

/* A half-word of a header goes from *was* to *is*: its checksum after that (RFC 1624, equation 3). */
static __always_inline __u16 resum(__u16 check, __u16 was, __u16 is)
{
	__u32 sum = (__u16)~check + (__u16)~was + is;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* One hop less. */
static __always_inline void count_hop(struct iphdr *header)
{
	__u16 was = bpf_htons(header->ttl << 8 | header->protocol);

	header->ttl--;
	header->check = resum(header->check, was, bpf_htons(header->ttl << 8 | header->protocol));
}

/* Whether the packet, its outer header gone, may go straight into the container that has *port*. What the host's own
 * stack would do on the way has to be done: the hop counts, and there must be room. */
static __always_inline int passes_to(struct __sk_buff *skb, const struct port *port, struct iphdr *inner)
{
	__u8 start[OUTER + sizeof(*inner)];
	__be16 ethertype = bpf_htons(ETH_P_IP);
	__u32 mtu = 0;

	if (inner->ihl != 5 || inner->ttl <= 1 || bpf_check_mtu(skb, port->ifindex, &mtu, 0, 0))
		return 0;
	count_hop(inner);
	__builtin_memcpy(start, port->to, 2 * ETH_ALEN);
	__builtin_memcpy(start + 2 * ETH_ALEN, &ethertype, sizeof(ethertype));
	__builtin_memcpy(start + OUTER, inner, sizeof(*inner));
	return !bpf_skb_store_bytes(skb, 0, start, sizeof(start), 0);
}

/* The underlay may be the host's only link: what is no packet of a tunnel's far end goes on to the host's own stack,
 * where nft counts it (agent/kernel/tunnel_rules.py). */
SEC("tc")
int ipip_unwrap(struct __sk_buff *skb)
{
	struct iphdr outer, inner;
	struct port *near, *port;
	struct ends ends = {};
	enum reason reason;
	__u8 first;
	__u32 key;
	__u64 *count;

	if (skb->vlan_present || skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	if (read_header(skb, OUTER, &outer) || outer.version != 4 || outer.protocol != IPPROTO_IPIP)
		return TC_ACT_UNSPEC;
	ends.local = outer.daddr;
	ends.remote = outer.saddr;
	near = bpf_map_lookup_elem(&ipip_ends, &ends);
	if (!near)
		return TC_ACT_UNSPEC;
	/* What no tunnel takes: by those it is tried who can be reached (agent/kernel/passage.py). */
	if (outer.ihl == 5 && !(outer.frag_off & bpf_htons(FRAGMENT_MASK)) &&
	    !bpf_skb_load_bytes(skb, INNER, &first, sizeof(first)) && !first)
		return TC_ACT_UNSPEC;
	reason = check(skb, &outer, &inner);
	if (reason != TAKEN) {
		key = reason;
		count = bpf_map_lookup_elem(&ipip_drops, &key);
		if (count)
			(*count)++;
		return TC_ACT_SHOT;
	}
	if ((outer.tos & ECN_MASK) == ECN_CE) {
		__u16 old = bpf_htons(0x4500 | inner.tos), new = bpf_htons(0x4500 | inner.tos | ECN_CE);

		inner.tos |= ECN_CE;
		inner.check = resum(inner.check, old, new);
		if (inner.ihl != 5 || bpf_skb_store_bytes(skb, INNER, &inner, sizeof(inner), 0))
			return TC_ACT_SHOT;
	}
	/* Without FIXED_GSO a datagram that is to be segmented is lost. */
	if (bpf_skb_adjust_room(skb, -(int)sizeof(outer), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return TC_ACT_SHOT;
	port = bpf_map_lookup_elem(&ipip_ports, &inner.daddr);
	if (port && passes_to(skb, port, &inner))
		return bpf_redirect_peer(port->ifindex, 0);
	if (bpf_skb_store_bytes(skb, 0, near->to, ETH_ALEN, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(near->ifindex, BPF_F_INGRESS);
}

/* Where the outer header goes: what the tunnel says, else what the packet's route says (ip-route(8), encap ip). */
static __always_inline __be32 find_remote(struct __sk_buff *skb, const struct ends *ends)
{
	struct bpf_tunnel_key key = {};

	if (ends->remote)
		return ends->remote;
	/* The helper speaks of a packet that was received, from the far end: a route's destination is "local" (Linux 6.0). */
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return 0;
	return bpf_htonl(key.local_ipv4);
}

/* Put the outer header before the packet, with *inner* as it is now, and send it on its way to the far end. The link of
 * the underlay is looked for each time: which one it is can change while the tunnel stands. *near*'s own is none. */
static __always_inline int wrap(struct __sk_buff *skb, __u32 near, const struct ends *ends, const struct iphdr *inner)
{
	struct bpf_fib_lookup route = { .family = AF_INET, .l4_protocol = IPPROTO_IPIP, .ifindex = near };
	struct bpf_redir_neigh next = { .nh_family = AF_INET };
	struct iphdr headers[2] = { { .version = 4, .ihl = 5, .ttl = TTL, .protocol = IPPROTO_IPIP }, *inner };
	struct iphdr *outer = &headers[0];
	__u32 length;
	long found;

	route.ipv4_src = ends->local;
	route.ipv4_dst = ends->remote;
	found = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if ((found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) || route.ifindex == near)
		return TC_ACT_SHOT;
	outer->saddr = ends->local;
	outer->daddr = ends->remote;
	/* RFC 6040, compatibility of the ingress: what a router on the way may say of congestion is told on. */
	outer->tos = (inner->tos & ECN_MASK) == ECN_CE ? ECN_ECT_0 : inner->tos & ECN_MASK;
	outer->frag_off = bpf_htons(DONT_FRAGMENT);
	if (bpf_skb_adjust_room(skb, sizeof(*outer), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_FIXED_GSO))
		return TC_ACT_SHOT;
	length = skb->len - ETH_HLEN;
	outer->tot_len = bpf_htons(length);
	outer->check = sum_header(outer);
	if (length > 0xffff || bpf_skb_store_bytes(skb, OUTER, headers, sizeof(headers), 0))
		return TC_ACT_SHOT;
	/* The route is not looked up again where the neighbour is known. Where it is not, the packet has to wait for it, and
	 * then goes where its route says: that has to be the outer one. */
	next.ipv4_nh = route.ipv4_dst;
	if (found == BPF_FIB_LKUP_RET_SUCCESS)
		return bpf_redirect_neigh(route.ifindex, &next, sizeof(next), 0);
	return bpf_redirect_neigh(route.ifindex, NULL, 0, 0);
}

SEC("tc")
int ipip_wrap(struct __sk_buff *skb)
{
	struct iphdr inner;
	struct ends ends, *found;
	__u32 near = skb->ifindex;

	found = bpf_map_lookup_elem(&ipip_tunnels, &near);
	if (!found || skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present)
		return TC_ACT_SHOT;
	if (read_header(skb, OUTER, &inner) || inner.version != 4)
		return TC_ACT_SHOT;
	ends.local = found->local;
	ends.remote = find_remote(skb, found);
	if (!ends.remote)
		return TC_ACT_SHOT;
	return wrap(skb, near, &ends, &inner);
}

/* At the ingress of a bridge of our own: what the host's own stack would send by a tunnel, without it. Whatever is not
 * plain goes on to the stack, which knows what to do: what is translated, routes by marks, options, hops that are used
 * up, packets that are too long, wrong checksums, beginnings of connections, whose segments it clamps. */
SEC("tc")
int ipip_enter(struct __sk_buff *skb)
{
	struct bpf_fib_lookup route = { .family = AF_INET };
	struct leaver leaver = { .bridge = skb->ifindex };
	struct way way = { .length = 8 * (sizeof(way) - sizeof(way.length)), .bridge = skb->ifindex };
	struct iphdr inner;
	struct ends *ends;
	__u32 near, mtu = 0;
	__u8 flags;
	long found;

	if (skb->pkt_type != PACKET_HOST || skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present || skb->mark)
		return TC_ACT_UNSPEC;
	if (read_header(skb, OUTER, &inner) || inner.version != 4 || inner.ihl != 5 || inner.ttl <= 1 ||
	    inner.protocol == IPPROTO_IPIP || sum_header(&inner) || bpf_ntohs(inner.tot_len) < sizeof(inner) ||
	    bpf_ntohs(inner.tot_len) != skb->len - ETH_HLEN)
		return TC_ACT_UNSPEC;
	if (inner.protocol == IPPROTO_TCP && !(inner.frag_off & bpf_htons(OFFSET_MASK)) &&
	    (bpf_skb_load_bytes(skb, INNER + TCP_FLAGS, &flags, sizeof(flags)) || flags & TCP_SYN))
		return TC_ACT_UNSPEC;
	leaver.address = inner.saddr;
	way.address = inner.daddr;
	if (!bpf_map_lookup_elem(&ipip_leavers, &leaver) || !bpf_map_lookup_elem(&ipip_ways, &way))
		return TC_ACT_UNSPEC;
	route.ifindex = skb->ifindex;
	route.tos = inner.tos;
	route.l4_protocol = inner.protocol;
	route.ipv4_src = inner.saddr;
	route.ipv4_dst = inner.daddr;
	found = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_UNSPEC;
	near = route.ifindex;
	ends = bpf_map_lookup_elem(&ipip_tunnels, &near);
	if (!ends || !ends->remote || bpf_check_mtu(skb, near, &mtu, 0, BPF_MTU_CHK_SEGS))
		return TC_ACT_UNSPEC;
	count_hop(&inner);
	return wrap(skb, near, ends, &inner);
}

char LICENSE[] SEC("license") = "GPL";
