/* Established connections from port to port, past userspace: the classifier at the ingress of every port.
 *
 * A packet that a flow covers in every respect is rewritten, counted and redirected. Any other one goes up: it is
 * redirected to the one device where userspace receives for all ports, behind a tag that names the port it came from.
 *
 * records.py has the same structures; a test holds the two together.
 */
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

struct port {
	u32 number;
	u32 up_ifindex; /* where what goes up goes */
};

struct map flows SEC("maps");	/* hash: key -> flow */
struct map states SEC("maps");	/* array of state */
struct map control SEC("maps"); /* array of one control */
struct map reasons SEC("maps"); /* array of u64: packets that went up, by `enum reason` */
struct map ports SEC("maps");	/* hash: ifindex -> port */

/* --- packets ----------------------------------------------------------------------------------------------------- */

#define TCI_PRESENT 0x1000
#define ETH_SIZE 14
#define ETH_IPV4 htons(0x0800)
#define ETH_IPV6 htons(0x86dd)
#define ETH_QINQ htons(0x88a8)
#define PROTO_TCP 6
#define PROTO_UDP 17
#define IPV4_SIZE 20
#define IPV6_SIZE 40
#define UDP_SIZE 8
#define MAX_HEADERS (ETH_SIZE + IPV6_SIZE + 20)

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
	u32 l4;	       /* offset in the frame */
	u32 l3_size;   /* all of layer 3 */
	u32 headers;   /* of layer 3 and 4 */
	u16 checksum;  /* UDP's */
	u8 ttl, tos;
};

INLINE u16 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE int parse_ipv4(void *data, void *end, struct key *key, struct packet *p)
{
	struct ipv4 *ip = data + ETH_SIZE;

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
	p->l4 = ETH_SIZE + IPV4_SIZE;
	p->l3_size = ntohs(ip->size);
	p->headers = IPV4_SIZE;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	return -1;
}

INLINE int parse_ipv6(void *data, void *end, struct key *key, struct packet *p)
{
	struct ipv6 *ip = data + ETH_SIZE;

	if ((void *)(ip + 1) > end || ip->version >> 4 != 6 || ip->payload_size == 0)
		return MALFORMED;
	key->family = 6;
	key->protocol = ip->protocol;
	__builtin_memcpy(key->source, ip->source, 16);
	__builtin_memcpy(key->destination, ip->destination, 16);
	p->l4 = ETH_SIZE + IPV6_SIZE;
	p->l3_size = IPV6_SIZE + ntohs(ip->payload_size);
	p->headers = IPV6_SIZE;
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
		p->checksum = *(u16 *)(l4 + 6);
		return ntohs(*(u16 *)(l4 + 4)) < UDP_SIZE ? MALFORMED : -1;
	}
	if ((void *)(l4 + 20) > end || l4[12] >> 4 < 5)
		return MALFORMED;
	p->headers += l4[12] >> 4 << 2;
	return (l4[13] & 0x17) == 0x10 ? -1 : TCP_FLAGS; /* SYN, RST, FIN must be 0, and ACK 1 */
}

/* Fills in `key` and `p`; -1, or why no flow could have the packet. Offsets are constants: without CAP_PERFMON the
 * kernel takes no others.
 */
INLINE int parse(struct __sk_buff *skb, struct key *key, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u16 type;
	int why;

	if (unlikely(data + MAX_HEADERS > end && skb->len >= MAX_HEADERS)) {
		skb_pull_data(skb, MAX_HEADERS);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	if (data + ETH_SIZE > end)
		return MALFORMED;
	type = *(u16 *)(data + 12);
	if (type == ETH_IPV4) {
		why = parse_ipv4(data, end, key, p);
		if (why < 0)
			why = parse_transport(data + ETH_SIZE + IPV4_SIZE, end, key, p);
	} else if (type == ETH_IPV6) {
		why = parse_ipv6(data, end, key, p);
		if (why < 0)
			why = parse_transport(data + ETH_SIZE + IPV6_SIZE, end, key, p);
	} else {
		return NOT_FIT;
	}
	if (why >= 0)
		return why;
	if (p->l3_size < p->headers || p->l3_size > skb->len - ETH_SIZE)
		return MALFORMED;
	key->ifindex = skb->ifindex;
	if (skb->vlan_present)
		key->tci = skb->vlan_tci | TCI_PRESENT;
	return -1;
}

/* The sum that a UDP checksum stands at that the device is to complete. */
INLINE u16 partial_sum(struct flow *flow, struct packet *p)
{
	return fold(flow->pseudo + htons((u16)(p->l3_size - (p->l4 - ETH_SIZE))));
}

INLINE int why_not(struct __sk_buff *skb, struct key *key, struct packet *p, struct flow *flow)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 segment = skb->gso_size, size = p->l3_size;

	u16 *eth = data, *expected = (u16 *)flow->eth;

	if ((void *)(eth + 6) > end ||
	    ((eth[0] ^ expected[0]) | (eth[1] ^ expected[1]) | (eth[2] ^ expected[2]) | (eth[3] ^ expected[3]) |
	     (eth[4] ^ expected[4]) | (eth[5] ^ expected[5])))
		return LINK;
	if (flow->flags & F_TOS && p->tos != flow->tos)
		return TOS;
	if (flow->flags & F_TPID && (u16)skb->vlan_proto != flow->new_tpid)
		return TAGS;
	if (flow->decrements && p->ttl <= flow->decrements)
		return TTL;
	if (segment) {
		if (key->protocol == PROTO_UDP && p->checksum != partial_sum(flow, p))
			return CHECKSUM; /* the segments are those of a packet inside */
		if (size > p->headers + segment)
			size = p->headers + segment;
	}
	return flow->mtu && size > flow->mtu ? SIZE : -1;
}

/* --- changing ---------------------------------------------------------------------------------------------------- */

/* A UDP checksum that the kernel's own state of the packet need not be about: it may be that of a packet inside, to be
 * completed, while this one stands there whole. True: it was corrected here.
 */
INLINE int correct_whole_udp(struct __sk_buff *skb, struct packet *p, struct flow *flow)
{
	u16 new;

	if (csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0 || csum_update(skb, 0) >= 0 || p->checksum == partial_sum(flow, p))
		return 0;
	new = ~fold((u16)~p->checksum + (u32)fold(flow->address_difference) + fold(flow->port_difference));
	if (new == 0)
		new = 0xffff;
	skb_store_bytes(skb, p->l4 + 6, &new, 2, 0);
	return 1;
}

INLINE long correct_transport(struct __sk_buff *skb, struct key *key, struct packet *p, struct flow *flow)
{
	int is_udp = key->protocol == PROTO_UDP;
	u32 at = p->l4 + (is_udp ? 6 : 16);
	u64 flags = is_udp ? BPF_F_MARK_MANGLED_0 : 0;
	long problem = 0;

	if (is_udp && (p->checksum == 0 || correct_whole_udp(skb, p, flow)))
		return 0;
	if (flow->flags & F_PORTS)
		problem = l4_csum_replace(skb, at, 0, flow->port_difference, flags);
	if (problem || !(flow->flags & F_ADDRESSES))
		return problem;
	flags |= BPF_F_PSEUDO_HDR;
	if (key->family == 6) {
		problem = l4_csum_replace(skb, at, 0, flow->address_difference, flags | BPF_F_IPV6);
		if (problem != -EINVAL)
			return problem;
	}
	return l4_csum_replace(skb, at, 0, flow->address_difference, flags);
}

INLINE long write_ipv4(struct __sk_buff *skb, struct flow *flow)
{
	struct {
		u16 align;
		u16 eth[ETH_SIZE / 2];
		struct ipv4 ip;
		struct ports_of ports;
	} new;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + ETH_SIZE + sizeof(struct ipv4) > end)
		return -EINVAL;
	__builtin_memcpy(new.eth, (u16 *)flow->new_eth, 12);
	new.eth[6] = ETH_IPV4;
	__builtin_memcpy(&new.ip, data + ETH_SIZE, sizeof(new.ip));
	new.ip.tos = flow->flags & F_TOS ? flow->new_tos : new.ip.tos;
	new.ip.ttl -= flow->decrements;
	if (flow->ip_difference)
		new.ip.checksum = ~fold((u16)~new.ip.checksum + (u32)fold(flow->ip_difference));
	new.ip.source = flow->new_source[3];
	new.ip.destination = flow->new_destination[3];
	new.ports.source = flow->new_source_port;
	new.ports.destination = flow->new_destination_port;
	return skb_store_bytes(skb, 0, new.eth, ETH_SIZE + IPV4_SIZE + sizeof(new.ports), 0);
}

INLINE long write_ipv6(struct __sk_buff *skb, struct flow *flow)
{
	struct {
		u16 align;
		u16 eth[ETH_SIZE / 2];
		struct ipv6 ip;
		struct ports_of ports;
	} new;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + ETH_SIZE + sizeof(struct ipv6) > end)
		return -EINVAL;
	__builtin_memcpy(new.eth, (u16 *)flow->new_eth, 12);
	new.eth[6] = ETH_IPV6;
	__builtin_memcpy(&new.ip, data + ETH_SIZE, sizeof(new.ip));
	if (flow->flags & F_TOS) {
		new.ip.version = 0x60 | flow->new_tos >> 4;
		new.ip.flow[0] = (flow->new_tos << 4) | (new.ip.flow[0] & 0xf);
	}
	new.ip.hop_limit -= flow->decrements;
	__builtin_memcpy(new.ip.source, flow->new_source, 16);
	__builtin_memcpy(new.ip.destination, flow->new_destination, 16);
	new.ports.source = flow->new_source_port;
	new.ports.destination = flow->new_destination_port;
	if (flow->ip_difference)
		csum_update(skb, flow->ip_difference); /* no header checksum evens it out */
	return skb_store_bytes(skb, 0, new.eth, ETH_SIZE + IPV6_SIZE + sizeof(new.ports), 0);
}

/* Nonzero: the packet is spoilt. */
INLINE long change(struct __sk_buff *skb, struct key *key, struct packet *p, struct flow *flow)
{
	long problem = 0;

	if (flow->flags & (F_ADDRESSES | F_PORTS))
		problem = correct_transport(skb, key, p, flow);
	if (!problem && flow->flags & F_WRITE)
		problem = key->family == 4 ? write_ipv4(skb, flow) : write_ipv6(skb, flow);
	if (!problem && flow->flags & F_POP)
		problem = skb_vlan_pop(skb);
	if (!problem && flow->flags & F_PUSH)
		problem = skb_vlan_push(skb, flow->new_tpid, flow->new_tci);
	return problem;
}

/* --- programs ---------------------------------------------------------------------------------------------------- */

INLINE void count(struct __sk_buff *skb, struct packet *p, struct state *state)
{
	u32 extra = skb->len - ETH_SIZE - p->l3_size, segment = skb->gso_size;

	__sync_fetch_and_add(&state->packets, 1);
	__sync_fetch_and_add(&state->bytes, p->l3_size);
	if (extra)
		__sync_fetch_and_add(&state->extra_bytes, extra);
	if (segment && p->l3_size > p->headers + segment)
		__sync_fetch_and_add(&state->extra_segments, (p->l3_size - p->headers - 1) / segment);
}

INLINE int go_up(struct __sk_buff *skb, u32 why)
{
	u32 ifindex = skb->ifindex;
	struct port *port = map_lookup(&ports, &ifindex);
	u64 *n = map_lookup(&reasons, &why);

	if (n)
		__sync_fetch_and_add(n, 1);
	if (!port)
		return TC_ACT_UNSPEC;
	if (skb_vlan_push(skb, ETH_QINQ, port->number))
		return TC_ACT_SHOT;
	return redirect(port->up_ifindex, BPF_F_INGRESS);
}

SEC("tc/forward")
int forward(struct __sk_buff *skb)
{
	struct key key = {};
	struct packet p = {};
	struct control *c;
	struct state *state;
	struct flow *flow;
	u32 zero = 0, index;
	u64 now;
	int why;

	c = map_lookup(&control, &zero);
	if (!c)
		return TC_ACT_SHOT;
	why = parse(skb, &key, &p);
	if (why >= 0)
		return go_up(skb, why);
	flow = map_lookup(&flows, &key);
	if (!flow)
		return go_up(skb, ABSENT);
	index = flow->index;
	state = map_lookup(&states, &index);
	if (!state || state->epoch != c->epoch)
		return go_up(skb, EPOCH);
	why = why_not(skb, &key, &p, flow);
	if (why >= 0)
		return go_up(skb, why);
	now = ktime_get_coarse_ns();
	if ((s64)(now - state->last_used_ns) > (s64)state->max_idle_ns)
		return go_up(skb, IDLE);
	state->last_used_ns = now;
	count(skb, &p, state);
	if (unlikely(flow->flags & ~(F_TOS | F_PEER)) && change(skb, &key, &p, flow))
		return TC_ACT_SHOT;
	if (flow->flags & F_PEER)
		return redirect_peer(flow->out_ifindex, 0);
	return redirect(flow->out_ifindex, 0);
}

/* What went up was received already: the machine itself shall not have it, too. */
SEC("tc/discard")
int discard(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

char licence[] SEC("license") = "Apache-2.0";
