/* Plain functions over DPDK's inline functions, macros and thread-local variables. One call handles one burst. */
#ifndef BOSON_DPDK_SHIM_H
#define BOSON_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct rte_mbuf;
struct rte_mempool;

/* The bytes of one frame inside an mbuf. */
struct boson_dpdk_frame {
	uint8_t *data;
	uint32_t length; /* 0: the frame came in several segments that do not fit into the first */
};

/* rte_errno of the calling thread. */
int boson_dpdk_errno(void);

/* Whether the calling thread has an lcore id, and with it a cache in every mempool. */
int boson_dpdk_thread_is_registered(void);

/*
 * Receives at most `capacity` mbufs. Fills mbufs[i] and frames[i]; a frame in several segments is made contiguous first.
 * The caller owns the mbufs.
 */
uint16_t boson_dpdk_receive(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs,
			    struct boson_dpdk_frame *frames, uint16_t capacity);

/*
 * Allocates an mbuf with room for one frame of `length` bytes and points *data at it. NULL if the pool is empty or the
 * frame does not fit into one mbuf.
 */
struct rte_mbuf *boson_dpdk_allocate(struct rte_mempool *pool, uint16_t length, uint8_t **data);

/* Hands `count` mbufs to the device and returns how many it took, from the front; the caller keeps the others. */
uint16_t boson_dpdk_transmit(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Gives `count` mbufs back to their pools. */
void boson_dpdk_free(struct rte_mbuf **mbufs, uint16_t count);

/* 1 if the link is up, 0 if it is down, a negative errno value if the device does not say. */
int boson_dpdk_link_is_up(uint16_t port);

/* The MTU in bytes of the kernel's interface `index` in this thread's network namespace, or a negative errno value. */
int boson_dpdk_interface_mtu(unsigned int index);

/* Whether the kernel's interface `index` is up and has a carrier: 1, 0, or a negative errno value. */
int boson_dpdk_interface_is_running(unsigned int index);

/* Receives one line, not terminated, and its level (1 emergency ... 8 debug). */
typedef void (*boson_dpdk_log_sink)(uint32_t level, const char *text, size_t length);

/* A stream for rte_openlog_stream that calls `sink` for every message; NULL and errno if it cannot be made. */
FILE *boson_dpdk_log_stream(boson_dpdk_log_sink sink);

#endif
