/* What the programs have in common: the maps, how a packet is looked up in them, whether a flow covers it, and what its
 * headers become.
 *
 * records.py has the same structures; a test holds the two together.
 */
#pragma once
#include "kernel.h"

/* --- what userspace and the programs share ---------------------------------------------------------------------- */

struct key {
	u32 ifindex;
	u16 tci; /* TCI_PRESENT in place of the drop-eligible bit; 0: no tag */
	u8 protocol;
	u8 family;	/* 4 or 6 */
	u32 source[4]; /* as in the packet; IPv4 in the last word */
	u32 destination[4];
	u16 source_port, destination_port;
};

struct flow {
	u32 index; /* of its `state` */
	u32 out_ifindex;
	u16 flags;
	u16 mtu; /* of layer 3; 0: any size */
	u8 tos, new_tos;
	u8 decrements; /* of the TTL */
	u8 unused;
	u32 eth[3]; /* destination and source, as they come in */
	u32 new_eth[3];
	u32 new_source[4];
	u32 new_destination[4];
	u16 new_source_port, new_destination_port;
	u16 new_tci, new_tpid;
	u32 address_difference; /* to be added to one's complement sums: of addresses, */
	u32 port_difference;	/* of ports, */
	u32 ip_difference;	/* of everything in the IPv4 header; of hop limit and class in that of IPv6 */
	u32 pseudo;		/* sum of the pseudo header as it comes in, without the length */
};

enum {
	F_WRITE = 1, /* something up to the ports changes */
	F_ADDRESSES = 2,
	F_PORTS = 4,
	F_TOS = 8, /* packets of another TOS go up */
	F_POP = 16,
	F_PUSH = 32,
	F_TPID = 64, /* one tag becomes another: that of packets must have the new one's type */
	F_PEER = 128, /* straight to the other end of the veth pair, which is in another namespace */
	F_FRAMES = 256, /* from frame to frame, by `forward_frames` */
};

struct state {
	u64 last_used_ns; /* CLOCK_MONOTONIC_COARSE */
	u64 packets;
	u64 bytes; /* of layer 3 */
	u64 extra_bytes; /* of frames, besides link header and layer 3: padding */
	u64 extra_segments; /* GSO packets count one packet, and here the rest */
	u64 max_idle_ns;
	u32 epoch;
	u32 unused[3];
};

enum reason {
	ABSENT, NOT_FIT, MALFORMED, FRAGMENT, OPTIONS, TCP_FLAGS, LINK, TOS, TAGS, TTL, SIZE, EPOCH, IDLE, CHECKSUM,
	N_REASONS
};

struct control {
	u32 epoch;
	u32 unused;
};

struct map flows SEC("maps");	/* hash: key -> flow */
struct map states SEC("maps");	/* array of state */
struct map control SEC("maps"); /* array of one control */

/* --- packets ----------------------------------------------------------------------------------------------------- */

#define TCI_PRESENT 0x1000
#define ETH_SIZE 14
#define TAG_SIZE 4
#define ETH_IPV4 htons(0x0800)
#define ETH_IPV6 htons(0x86dd)
#define ETH_VLAN htons(0x8100)
#define ETH_QINQ htons(0x88a8)
#define PROTO_TCP 6
#define PROTO_UDP 17
#define IPV4_SIZE 20
#define IPV6_SIZE 40
#define TCP_SIZE 20
#define UDP_SIZE 8
#define TCP_CHECKSUM 16 /* offsets */
#define UDP_CHECKSUM 6

struct ipv4 {
	u8 version_ihl, tos;
	u16 size, id, fragment;
	u8 ttl, protocol;
	u16 checksum;
	u32 source, destination;
};

struct ipv6 {
	u8 version, flow[3];
	u16 payload_size;
	u8 protocol, hop_limit;
	u32 source[4], destination[4];
};

struct ports_of {
	u16 source, destination;
};

struct packet {
	u32 l3_size;  /* all of layer 3 */
	u32 ip_size;  /* of its header */
	u32 headers;  /* of layer 3 and 4 */
	u16 checksum; /* of layer 4 */
	u8 ttl, tos;
};

INLINE u16 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE int parse_ipv4(void *l3, void *end, struct key *key, struct packet *p)
{
	struct ipv4 *ip = l3;

	if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
		return MALFORMED;
	if (ip->version_ihl != 0x45)
		return OPTIONS;
	if (ip->fragment & htons(0x3fff))
		return FRAGMENT;
	key->family = 4;
	key->protocol = ip->protocol;
	key->source[3] = ip->source;
	key->destination[3] = ip->destination;
	p->l3_size = ntohs(ip->size);
	p->ip_size = p->headers = IPV4_SIZE;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	return -1;
}

INLINE int parse_ipv6(void *l3, void *end, struct key *key, struct packet *p)
{
	struct ipv6 *ip = l3;

	if ((void *)(ip + 1) > end || ip->version >> 4 != 6 || ip->payload_size == 0)
		return MALFORMED;
	key->family = 6;
	key->protocol = ip->protocol;
	__builtin_memcpy(key->source, ip->source, 16);
	__builtin_memcpy(key->destination, ip->destination, 16);
	p->l3_size = IPV6_SIZE + ntohs(ip->payload_size);
	p->ip_size = p->headers = IPV6_SIZE;
	p->ttl = ip->hop_limit;
	p->tos = ip->version << 4 | ip->flow[0] >> 4;
	return -1;
}

INLINE int parse_transport(u8 *l4, void *end, struct key *key, struct packet *p)
{
	if (key->protocol != PROTO_TCP && key->protocol != PROTO_UDP)
		return NOT_FIT;
	if ((void *)(l4 + UDP_SIZE) > end)
		return MALFORMED;
	key->source_port = *(u16 *)l4;
	key->destination_port = *(u16 *)(l4 + 2);
	if (key->protocol == PROTO_UDP) {
		p->headers += UDP_SIZE;
		p->checksum = *(u16 *)(l4 + UDP_CHECKSUM);
		return ntohs(*(u16 *)(l4 + 4)) < UDP_SIZE ? MALFORMED : -1;
	}
	if ((void *)(l4 + TCP_SIZE) > end || l4[12] >> 4 < 5)
		return MALFORMED;
	p->headers += l4[12] >> 4 << 2;
	p->checksum = *(u16 *)(l4 + TCP_CHECKSUM);
	return (l4[13] & 0x17) == 0x10 ? -1 : TCP_FLAGS; /* SYN, RST, FIN must be 0, and ACK 1 */
}

/* Fills in `key`, but for device and tag, and `p`; -1, or why no flow could have the packet. `size`: from `l3` on. */
INLINE int parse_packet(void *l3, void *end, u16 type, u32 size, struct key *key, struct packet *p)
{
	void *l4;
	int why;

	if (type == ETH_IPV4) {
		why = parse_ipv4(l3, end, key, p);
		l4 = place(l3 + IPV4_SIZE);
	} else if (type == ETH_IPV6) {
		why = parse_ipv6(l3, end, key, p);
		l4 = place(l3 + IPV6_SIZE);
	} else {
		return NOT_FIT;
	}
	if (why < 0)
		why = parse_transport(l4, end, key, p);
	if (why >= 0)
		return why;
	return p->l3_size < p->headers || p->l3_size > size ? MALFORMED : -1;
}

/* --- may it pass? ------------------------------------------------------------------------------------------------ */

/* The sum that a checksum stands at that the device is to complete. */
INLINE u16 partial_sum(struct flow *flow, struct packet *p)
{
	return fold(flow->pseudo + htons((u16)(p->l3_size - p->ip_size)));
}

/* `tpid`: of the packet's tag, if it has one. `size`: of its largest segment. */
INLINE int why_not(void *data, void *end, struct packet *p, struct flow *flow, u16 tpid, u32 size)
{
	u16 *eth = data, *expected = (u16 *)flow->eth;

	if ((void *)(eth + 6) > end ||
	    ((eth[0] ^ expected[0]) | (eth[1] ^ expected[1]) | (eth[2] ^ expected[2]) | (eth[3] ^ expected[3]) |
	     (eth[4] ^ expected[4]) | (eth[5] ^ expected[5])))
		return LINK;
	if (flow->flags & F_TOS && p->tos != flow->tos)
		return TOS;
	if (flow->flags & F_TPID && tpid != flow->new_tpid)
		return TAGS;
	if (flow->decrements && p->ttl <= flow->decrements)
		return TTL;
	return flow->mtu && size > flow->mtu ? SIZE : -1;
}

/* The flow's state, if it is of the present epoch. */
INLINE struct state *state_of(struct flow *flow)
{
	u32 zero = 0, index = flow->index;
	struct control *c = map_lookup(&control, &zero);
	struct state *state = map_lookup(&states, &index);

	return c && state && state->epoch == c->epoch ? state : 0;
}

/* Whether it was not silent for too long; then it is used now. */
INLINE int touch(struct state *state)
{
	u64 now = ktime_get_coarse_ns();

	if ((s64)(now - state->last_used_ns) > (s64)state->max_idle_ns)
		return 0;
	state->last_used_ns = now;
	return 1;
}

/* `extra`: bytes of the frame besides link header and layer 3. `segment`: size of segments' payload, or 0. */
INLINE void count(struct packet *p, struct state *state, u32 extra, u32 segment)
{
	__sync_fetch_and_add(&state->packets, 1);
	__sync_fetch_and_add(&state->bytes, p->l3_size);
	if (extra)
		__sync_fetch_and_add(&state->extra_bytes, extra);
	if (segment && p->l3_size > p->headers + segment)
		__sync_fetch_and_add(&state->extra_segments, (p->l3_size - p->headers - 1) / segment);
}

/* --- changing ---------------------------------------------------------------------------------------------------- */

/* A checksum after what its flow changes. */
INLINE u16 corrected(u16 checksum, struct flow *flow)
{
	return ~fold((u16)~checksum + (u32)fold(flow->address_difference) + fold(flow->port_difference));
}

/* Write what changes up to the ports, checksums of layer 4 left out. Nonzero: it is not all there. */
INLINE int write_headers(void *l3, void *end, u8 family, struct flow *flow)
{
	struct ipv4 *ip = l3;
	struct ipv6 *ip6 = l3;
	struct ports_of *ports;

	if (family == 4) {
		if ((void *)(ip + 1) > end)
			return -EINVAL;
		if (flow->flags & F_TOS)
			ip->tos = flow->new_tos;
		ip->ttl -= flow->decrements;
		if (flow->ip_difference)
			ip->checksum = ~fold((u16)~ip->checksum + (u32)fold(flow->ip_difference));
		ip->source = flow->new_source[3];
		ip->destination = flow->new_destination[3];
		ports = place(ip + 1);
	} else {
		if ((void *)(ip6 + 1) > end)
			return -EINVAL;
		if (flow->flags & F_TOS) {
			ip6->version = 0x60 | flow->new_tos >> 4;
			ip6->flow[0] = (flow->new_tos << 4) | (ip6->flow[0] & 0xf);
		}
		ip6->hop_limit -= flow->decrements;
		__builtin_memcpy(ip6->source, flow->new_source, 16);
		__builtin_memcpy(ip6->destination, flow->new_destination, 16);
		ports = place(ip6 + 1);
	}
	if ((void *)(ports + 1) > end)
		return -EINVAL;
	ports->source = flow->new_source_port;
	ports->destination = flow->new_destination_port;
	return 0;
}

INLINE int write_eth(void *data, void *end, struct flow *flow)
{
	if (data + ETH_SIZE > end)
		return -EINVAL;
	__builtin_memcpy(data, flow->new_eth, 12);
	return 0;
}
