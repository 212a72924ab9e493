/* Established connections from port to port, past userspace: the classifier at the ingress of every port.
 *
 * A packet that a flow covers in every respect is rewritten, counted and redirected. Any other one goes up: it is
 * redirected to the one device where userspace receives for all ports, behind a tag that names the port it came from.
 */
#include "flows.h"

struct port {
	u32 number;
	u32 up_ifindex; /* where what goes up goes */
};

struct map reasons SEC("maps"); /* array of u64: packets that went up, by `enum reason` */
struct map ports SEC("maps");	/* hash: ifindex -> port */

#define LEAST_HEADERS (ETH_SIZE + IPV4_SIZE + TCP_SIZE)
#define MOST_HEADERS (ETH_SIZE + IPV6_SIZE + TCP_SIZE)

/* Fills in `key` and `p`; -1, or why no flow could have the packet. */
INLINE int parse(struct __sk_buff *skb, struct key *key, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 wanted = skb->protocol == ETH_IPV6 ? MOST_HEADERS : LEAST_HEADERS;

	if (unlikely((data + LEAST_HEADERS > end || (wanted == MOST_HEADERS && data + MOST_HEADERS > end)) &&
		     skb->len >= wanted)) {
		skb_pull_data(skb, wanted);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	key->ifindex = skb->ifindex;
	if (skb->vlan_present)
		key->tci = skb->vlan_tci | TCI_PRESENT;
	return data + ETH_SIZE > end ? MALFORMED
				     : parse_packet(data + ETH_SIZE, end, ((u16 *)data)[6], skb->len - ETH_SIZE, key, p);
}

INLINE int why_not_skb(struct __sk_buff *skb, struct key *key, struct packet *p, struct flow *flow)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 segment = skb->gso_size, size = p->l3_size;

	if (segment) {
		if (key->protocol == PROTO_UDP && p->checksum != partial_sum(flow, p))
			return CHECKSUM; /* the segments are those of a packet inside */
		if (size > p->headers + segment)
			size = p->headers + segment;
	}
	return why_not(data, end, p, flow, skb->vlan_proto, size);
}

/* A UDP checksum that the kernel's own state of the packet need not be about: it may be that of a packet inside, to be
 * completed, while this one stands there whole. True: it was corrected here.
 */
INLINE int correct_whole_udp(struct __sk_buff *skb, struct packet *p, struct flow *flow)
{
	u16 new;

	if (csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0 || csum_update(skb, 0) >= 0 || p->checksum == partial_sum(flow, p))
		return 0;
	new = corrected(p->checksum, flow);
	if (new == 0)
		new = 0xffff;
	skb_store_bytes(skb, ETH_SIZE + p->ip_size + UDP_CHECKSUM, &new, 2, 0);
	return 1;
}

/* Nothing in the packet evens out what changes, but for addresses in the header of IPv4: only a sum of all of it is told. */
INLINE void correct_sum_alone(struct __sk_buff *skb, u8 family, struct flow *flow)
{
	if (flow->flags & F_PORTS)
		csum_update(skb, flow->port_difference);
	if (family == 6 && flow->flags & F_ADDRESSES)
		csum_update(skb, flow->address_difference);
}

INLINE long correct_transport(struct __sk_buff *skb, struct key *key, struct packet *p, struct flow *flow)
{
	int is_udp = key->protocol == PROTO_UDP;
	u32 at = ETH_SIZE + p->ip_size + (is_udp ? UDP_CHECKSUM : TCP_CHECKSUM);
	u64 flags = is_udp ? BPF_F_MARK_MANGLED_0 : 0;
	long problem = 0;

	if (is_udp && p->checksum == 0) {
		correct_sum_alone(skb, key->family, flow);
		return 0;
	}
	if (is_udp && correct_whole_udp(skb, p, flow))
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

INLINE int write(struct __sk_buff *skb, u8 family, struct flow *flow)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	return write_eth(data, end, flow) ? -EINVAL : write_headers(data + ETH_SIZE, end, family, flow);
}

/* Nonzero: the packet is spoilt. */
INLINE long change(struct __sk_buff *skb, struct key *key, struct packet *p, struct flow *flow)
{
	long problem = 0;

	if (flow->flags & (F_ADDRESSES | F_PORTS))
		problem = correct_transport(skb, key, p, flow);
	if (!problem && flow->flags & F_WRITE) {
		if (key->family == 6 && flow->ip_difference)
			csum_update(skb, flow->ip_difference); /* no header checksum evens it out */
		problem = write(skb, key->family, flow);
	}
	if (!problem && flow->flags & F_POP)
		problem = skb_vlan_pop(skb);
	if (!problem && flow->flags & F_PUSH)
		problem = skb_vlan_push(skb, flow->new_tpid, flow->new_tci);
	return problem;
}

/* --- programs ---------------------------------------------------------------------------------------------------- */

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
	struct state *state;
	struct flow *flow;
	int why;

	why = parse(skb, &key, &p);
	if (why >= 0)
		return go_up(skb, why);
	flow = map_lookup(&flows, &key);
	if (!flow)
		return go_up(skb, ABSENT);
	state = state_of(flow);
	if (!state)
		return go_up(skb, EPOCH);
	why = why_not_skb(skb, &key, &p, flow);
	if (why >= 0)
		return go_up(skb, why);
	if (!touch(state))
		return go_up(skb, IDLE);
	count(&p, state, skb->len - ETH_SIZE - p.l3_size, skb->gso_size);
	if (flow->flags & (F_WRITE | F_ADDRESSES | F_PORTS | F_POP | F_PUSH) && change(skb, &key, &p, flow))
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
