#define _GNU_SOURCE /* fopencookie */
#include "shim.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>

int boson_dpdk_errno(void)
{
	return rte_errno;
}

int boson_dpdk_thread_is_registered(void)
{
	return rte_lcore_id() != LCORE_ID_ANY;
}

uint16_t boson_dpdk_receive(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs,
			    struct boson_dpdk_frame *frames, uint16_t capacity)
{
	uint16_t count = rte_eth_rx_burst(port, queue, mbufs, capacity);

	for (uint16_t i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = mbufs[i];

		if (unlikely(mbuf->nb_segs > 1) && rte_pktmbuf_linearize(mbuf) != 0) {
			frames[i].data = NULL;
			frames[i].length = 0;
			continue;
		}
		frames[i].data = rte_pktmbuf_mtod(mbuf, uint8_t *);
		frames[i].length = rte_pktmbuf_data_len(mbuf);
	}
	return count;
}

struct rte_mbuf *boson_dpdk_allocate(struct rte_mempool *pool, uint16_t length, uint8_t **data)
{
	struct rte_mbuf *mbuf = rte_pktmbuf_alloc(pool);

	if (unlikely(mbuf == NULL))
		return NULL;
	*data = (uint8_t *)rte_pktmbuf_append(mbuf, length);
	if (unlikely(*data == NULL)) {
		rte_pktmbuf_free(mbuf);
		return NULL;
	}
	return mbuf;
}

uint16_t boson_dpdk_transmit(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

void boson_dpdk_free(struct rte_mbuf **mbufs, uint16_t count)
{
	rte_pktmbuf_free_bulk(mbufs, count);
}

int boson_dpdk_link_is_up(uint16_t port)
{
	struct rte_eth_link link;
	int result = rte_eth_link_get_nowait(port, &link);

	if (result < 0)
		return result;
	return link.link_status == RTE_ETH_LINK_UP;
}

/* Asks the kernel about an interface; 0 or a negative errno value. */
static int interface_request(unsigned int index, unsigned long code, struct ifreq *request)
{
	int result;
	int fd;

	memset(request, 0, sizeof(*request));
	if (if_indextoname(index, request->ifr_name) == NULL)
		return -errno;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	result = ioctl(fd, code, request) < 0 ? -errno : 0;
	close(fd);
	return result;
}

int boson_dpdk_interface_mtu(unsigned int index)
{
	struct ifreq request;
	int result = interface_request(index, SIOCGIFMTU, &request);

	return result < 0 ? result : request.ifr_mtu;
}

int boson_dpdk_interface_is_running(unsigned int index)
{
	struct ifreq request;
	int result = interface_request(index, SIOCGIFFLAGS, &request);

	return result < 0 ? result : (request.ifr_flags & IFF_RUNNING) != 0;
}

static ssize_t log_write(void *cookie, const char *text, size_t length)
{
	boson_dpdk_log_sink sink = (boson_dpdk_log_sink)cookie;
	int level = rte_log_cur_msg_loglevel();

	sink(level < 0 ? RTE_LOG_INFO : (uint32_t)level, text, length);
	return (ssize_t)length;
}

FILE *boson_dpdk_log_stream(boson_dpdk_log_sink sink)
{
	const cookie_io_functions_t functions = { .write = log_write };

	return fopencookie((void *)sink, "w", functions);
}
