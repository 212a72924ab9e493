/* Established connections from port to port, frame by frame: before the kernel has made a packet of what a device got.
 *
 * A frame of a flow between two ports that both do without packets (F_FRAMES) is rewritten, counted and redirected. Any
 * other one is left as it is, and comes to the classifier of forward.c.
 */
#include "flows.h"

#define CHUNK_SIZE 256u /* of what is summed up at a time: older kernels take no more than 512 */
#define MAX_CHUNKS 7

struct frame {
	u32 size;
	u32 l3;	  /* offset */
	u16 tpid; /* of its tag */
};

INLINE void *l3_of(struct xdp_md *ctx, struct frame *frame)
{
	void *data = (void *)(long)ctx->data;

	return frame->l3 == ETH_SIZE ? place(data + ETH_SIZE) : place(data + ETH_SIZE + TAG_SIZE);
}

/* Fills in all three; -1, or why no flow could have the frame. */
INLINE int parse(struct xdp_md *ctx, struct frame *frame, struct key *key, struct packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u16 *eth = data, type;

	if (data + ETH_SIZE + TAG_SIZE > end)
		return MALFORMED;
	frame->size = xdp_get_buff_len(ctx);
	frame->l3 = ETH_SIZE;
	type = eth[6];
	if (type == ETH_VLAN || type == ETH_QINQ) {
		frame->l3 += TAG_SIZE;
		frame->tpid = type;
		key->tci = ntohs(eth[7]) | TCI_PRESENT;
		type = eth[8];
	}
	key->ifindex = ctx->ingress_ifindex;
	return parse_packet(l3_of(ctx, frame), end, type, frame->size - frame->l3, key, p);
}

/* --- changing ---------------------------------------------------------------------------------------------------- */

INLINE u16 *checksum_of(void *l3, u8 family, u8 protocol)
{
	void *l4 = family == 4 ? place(l3 + IPV4_SIZE) : place(l3 + IPV6_SIZE);

	return protocol == PROTO_UDP ? place(l4 + UDP_CHECKSUM) : place(l4 + TCP_CHECKSUM);
}

/* The sum of layer 4 with what its checksum stands at. Negative: it could not be read. */
INLINE s64 sum_up(struct xdp_md *ctx, u32 at, u32 size)
{
	u8 chunk[CHUNK_SIZE] = {};
	s64 sum = 0;

	for (int i = 0; i < MAX_CHUNKS && size && sum >= 0; i++) {
		u32 n = size < CHUNK_SIZE ? size : CHUNK_SIZE;

		if (n < CHUNK_SIZE)
			__builtin_memset(chunk, 0, CHUNK_SIZE);
		if (xdp_load_bytes(ctx, at, chunk, n))
			return -EINVAL;
		sum = csum_diff(0, 0, chunk, CHUNK_SIZE, sum);
		at += n;
		size -= n;
	}
	return sum;
}

/* Whoever sent it in this machine left the checksum to the device. A frame says nothing of that, so it is done here. */
INLINE int complete(struct xdp_md *ctx, struct frame *frame, struct packet *p, u16 *checksum)
{
	s64 sum = sum_up(ctx, frame->l3 + p->ip_size, p->l3_size - p->ip_size);

	if (sum < 0)
		return -EINVAL;
	*checksum = ~fold(sum);
	return 0;
}

INLINE int write_tag(struct xdp_md *ctx, struct flow *flow)
{
	int more = (flow->flags & F_PUSH ? TAG_SIZE : 0) - (flow->flags & F_POP ? TAG_SIZE : 0);
	void *data, *end;
	u16 *eth;

	if (more && xdp_adjust_head(ctx, -more))
		return -EINVAL;
	eth = data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + ETH_SIZE + TAG_SIZE > end)
		return -EINVAL;
	if (flow->flags & F_PUSH) {
		eth[6] = flow->new_tpid;
		eth[7] = htons(flow->new_tci);
	}
	return write_eth(data, end, flow);
}

/* Nonzero: the frame is spoilt. */
INLINE int change(struct xdp_md *ctx, struct frame *frame, struct key *key, struct packet *p, struct flow *flow,
		  int is_partial)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *l3 = l3_of(ctx, frame);
	u16 *checksum = checksum_of(l3, key->family, key->protocol);
	int is_udp = key->protocol == PROTO_UDP;

	if ((void *)(checksum + 1) > end || write_eth(data, end, flow))
		return -EINVAL;
	if (flow->flags & F_WRITE && write_headers(l3, end, key->family, flow))
		return -EINVAL;
	if (is_partial) {
		*checksum = fold(p->checksum + (u32)fold(flow->address_difference));
		if (complete(ctx, frame, p, checksum))
			return -EINVAL;
	} else if (flow->flags & (F_ADDRESSES | F_PORTS) && !(is_udp && p->checksum == 0)) {
		*checksum = corrected(p->checksum, flow);
	}
	if (is_udp && p->checksum && *checksum == 0)
		*checksum = 0xffff;
	return flow->flags & (F_POP | F_PUSH) ? write_tag(ctx, flow) : 0;
}

/* --- the program ------------------------------------------------------------------------------------------------- */

SEC("xdp/forward")
int forward_frames(struct xdp_md *ctx)
{
	struct frame frame = {};
	struct packet p = {};
	struct key key = {};
	struct state *state;
	struct flow *flow;
	int is_partial;

	if (parse(ctx, &frame, &key, &p) >= 0)
		return XDP_PASS;
	flow = map_lookup(&flows, &key);
	if (!flow || !(flow->flags & F_FRAMES))
		return XDP_PASS;
	is_partial = p.checksum == partial_sum(flow, &p);
	if (is_partial && p.l3_size > MAX_CHUNKS * CHUNK_SIZE)
		return XDP_PASS;
	state = state_of(flow);
	if (!state ||
	    why_not((void *)(long)ctx->data, (void *)(long)ctx->data_end, &p, flow, frame.tpid, p.l3_size) >= 0 ||
	    !touch(state))
		return XDP_PASS;
	count(&p, state, frame.size - frame.l3 - p.l3_size, 0);
	if (change(ctx, &frame, &key, &p, flow, is_partial))
		return XDP_ABORTED;
	return redirect(flow->out_ifindex, 0);
}

char licence[] SEC("license") = "Apache-2.0";
