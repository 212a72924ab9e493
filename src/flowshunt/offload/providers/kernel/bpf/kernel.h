/* What the programs need of the kernel's interface (linux/bpf.h), so that the object depends on no installed headers. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define htons(n) __builtin_bswap16(n)
#define ntohs(n) __builtin_bswap16(n)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* A pointer into a packet that the compiler is not to look into: it would add variables to it for what two branches have
 * in common, which the kernel refuses without CAP_PERFMON.
 */
#define place(pointer)                                                                                                \
	({                                                                                                            \
		void *place_ = (pointer);                                                                             \
		asm volatile("" : "+r"(place_));                                                                      \
		place_;                                                                                               \
	})

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	u32 data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

/* A map. The loader makes it, knows its type and sizes, and puts its descriptor where the programs name it. */
struct map {
	u32 unused;
};

#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2

#define XDP_ABORTED 0
#define XDP_PASS 2

#define BPF_F_INGRESS 1
#define BPF_F_PSEUDO_HDR (1 << 4)
#define BPF_F_MARK_MANGLED_0 (1 << 5)
#define BPF_F_IPV6 (1 << 7) /* since Linux 6.16, and in later releases of older lines */
#define BPF_CSUM_LEVEL_QUERY 0
#define EINVAL 22

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const skb_store_bytes)(struct __sk_buff *, u32 offset, const void *from, u32 size, u64 flags) = (void *)9;
static long (*const l4_csum_replace)(struct __sk_buff *, u32 offset, u64 from, u64 to, u64 flags) = (void *)11;
static long (*const skb_vlan_push)(struct __sk_buff *, u16 protocol, u16 tci) = (void *)18;
static long (*const skb_vlan_pop)(struct __sk_buff *) = (void *)19;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const skb_pull_data)(struct __sk_buff *, u32 size) = (void *)39;
static s64 (*const csum_update)(struct __sk_buff *, u32 difference) = (void *)40;
static long (*const csum_level)(struct __sk_buff *, u64 what) = (void *)135;
static long (*const redirect_peer)(u32 ifindex, u64 flags) = (void *)155;
static u64 (*const ktime_get_coarse_ns)(void) = (void *)160;
static s64 (*const csum_diff)(const void *from, u32 from_size, const void *to, u32 to_size, u32 seed) = (void *)28;
static long (*const xdp_adjust_head)(struct xdp_md *, int difference) = (void *)44;
static u64 (*const xdp_get_buff_len)(struct xdp_md *) = (void *)188;
static long (*const xdp_load_bytes)(struct xdp_md *, u32 offset, void *to, u32 size) = (void *)189;
static long (*const xdp_store_bytes)(struct xdp_md *, u32 offset, const void *from, u32 size) = (void *)190;
