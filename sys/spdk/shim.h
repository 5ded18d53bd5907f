/*
 * Plain functions over SPDK's macros, bit fields, versioned structures and variable argument lists. Results are 0 or
 * positive, or negative errno values, unless it says otherwise.
 */
#ifndef BOSON_SPDK_SHIM_H
#define BOSON_SPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct spdk_nvme_cpl;
struct spdk_nvme_ctrlr;
struct spdk_nvme_ns;
struct spdk_nvme_qpair;
struct spdk_bdev;
struct spdk_bdev_desc;
struct spdk_bdev_io_wait_entry;
struct spdk_io_channel;

/* --- The environment --- */

/* SPDK's release as its headers name it. */
const char *boson_spdk_version(void);

/* An address in each library that SPDK's own need without saying so; NULL beyond the last. */
const void *boson_spdk_needed(unsigned int index);

/* Receives one message without its line end, and SPDK's level (0 error ... 4 debug). */
typedef void (*boson_spdk_log_sink)(int level, const char *text, size_t length);

/* From now on SPDK's log goes to `sink`, as far as it is of `level` or more urgent. */
void boson_spdk_log_redirect(boson_spdk_log_sink sink, int level);

/*
 * SPDK installs a handler for SIGBUS that knows registers of devices that vanish, and returns for every other fault: the
 * thread would fault again for ever. After this call a fault that SPDK's handler did not remedy ends the process, as it
 * does without SPDK. Call it after the environment was started; further calls do nothing.
 */
int boson_spdk_bound_sigbus(void);

/* Whether a device can reach all `length` bytes from `address`: 1 or 0. */
int boson_spdk_is_mapped(const void *address, size_t length);

/* How long a connection over TCP may take to be established, for controllers that are attached from now on. */
int boson_spdk_set_tcp_connect_timeout(uint32_t milliseconds);

/* --- NVMe controllers --- */

struct boson_spdk_attach_options {
	uint32_t io_queues;	       /* the most queue pairs */
	uint32_t queue_entries;	       /* of one queue pair */
	uint32_t requests;	       /* of one queue pair, at SPDK's level */
	uint32_t keep_alive_ms;
	uint32_t connect_timeout_ms;
	uint32_t admin_timeout_ms;     /* of one admin command; SPDK waits for some of them under its lock */
	bool interrupts;
};

struct boson_spdk_attach;

/*
 * Starts to attach the controller `transport` (SPDK's notation: "trtype:TCP adrfam:IPv4 ..."). Returns NULL and a
 * negative errno value in *error if it cannot.
 */
struct boson_spdk_attach *boson_spdk_attach_start(const char *transport, const struct boson_spdk_attach_options *options,
						  int *error);

/* -EAGAIN until it is done. 0 and *controller, or an error; either ends and frees the attempt. */
int boson_spdk_attach_poll(struct boson_spdk_attach *attach, struct spdk_nvme_ctrlr **controller);

/* What a namespace is, as far as SPDK knows better than the identify data. */
struct boson_spdk_namespace {
	uint64_t blocks;
	uint32_t block_bytes;
	uint32_t metadata_bytes;
	uint32_t max_transfer_bytes;
	uint32_t boundary_blocks;
	uint32_t max_segments;
	uint16_t io_queues;
	bool flush;
	bool trim;
	bool write_zeroes;
	bool compare_and_write;
};

/* -ENODEV if the namespace does not exist or is not active. */
int boson_spdk_describe_namespace(struct spdk_nvme_ctrlr *controller, uint32_t nsid, struct boson_spdk_namespace *out);

/* The identify data, 4096 bytes each. */
const uint8_t *boson_spdk_identify_controller(struct spdk_nvme_ctrlr *controller);
const uint8_t *boson_spdk_identify_namespace(struct spdk_nvme_ns *ns);

/* Has SPDK look which controllers were pulled off the bus, and call their `removed` for that. */
int boson_spdk_scan_bus(void);

/* What the registers of a controller on the bus say: they are gone, a fatal status (CSTS.CFS), or CSTS.RDY. */
enum {
	BOSON_SPDK_REMOVED = 1,
	BOSON_SPDK_FATAL = 2,
	BOSON_SPDK_READY = 4,
};

/* A set of these. */
uint32_t boson_spdk_controller_status(struct spdk_nvme_ctrlr *controller);

/* Clears CC.EN of a controller on the bus, and does not wait: it touches no memory once it is not BOSON_SPDK_READY. */
void boson_spdk_disable(struct spdk_nvme_ctrlr *controller);

/* How long the controller may take for that (CAP.TO). */
uint32_t boson_spdk_ready_timeout_ms(struct spdk_nvme_ctrlr *controller);

/*
 * What the controller is asked for when it is connected again: so many queue pairs, where SPDK would ask for as many as it
 * was given the last time, and interrupts, for which SPDK makes file descriptors anew without closing those that there are.
 * Only while the controller is disconnected and has no queue pair.
 */
void boson_spdk_ask_for(struct spdk_nvme_ctrlr *controller, uint32_t io_queues, bool interrupts);

/* Whether completions on its queue pairs make the file descriptor of their poll group's group readable. */
bool boson_spdk_has_interrupts(struct spdk_nvme_ctrlr *controller);

/* Allows a controller on the bus to reach memory, or keeps it from it (the command register of its PCI function). */
int boson_spdk_set_bus_master(struct spdk_nvme_ctrlr *controller, bool allowed);

/*
 * Allocates a queue pair that is not connected yet, with `requests` requests; NULL while the controller resets, without
 * memory, or without a queue left.
 */
struct spdk_nvme_qpair *boson_spdk_qpair_allocate(struct spdk_nvme_ctrlr *controller, uint32_t requests,
						  bool batch_doorbells);

typedef void (*boson_spdk_done)(void *argument, const struct spdk_nvme_cpl *completion);

/* The completion's status field without the phase: code 0-7, type 8-10, retry delay 11-12, more 13, do not retry 14. */
uint16_t boson_spdk_status(const struct spdk_nvme_cpl *completion);

/* The namespace's size in bytes now; 0 if it is not active. */
uint64_t boson_spdk_namespace_bytes(struct spdk_nvme_ns *ns);

/* The pieces must live until `done` is called, which happens exactly if the result is 0. */
int boson_spdk_read(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
		    struct iovec *pieces, uint32_t count, boson_spdk_done done, void *argument);
int boson_spdk_write(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
		     struct iovec *pieces, uint32_t count, bool durable, boson_spdk_done done, void *argument);
int boson_spdk_trim(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
		    boson_spdk_done done, void *argument);
int boson_spdk_write_zeroes(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
			    boson_spdk_done done, void *argument);

/*
 * The two halves of one fused command, which are submitted one right after the other. `done` comes once per half that
 * was submitted; *submitted says how many were.
 */
int boson_spdk_compare_and_write(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
				 void *expected, void *data, boson_spdk_done compared, boson_spdk_done written,
				 void *argument, uint32_t *submitted);

/* --- Block devices of SPDK --- */

struct boson_spdk_bdev {
	uint64_t blocks;
	uint32_t block_bytes;
	uint32_t metadata_bytes;
	uint32_t boundary_blocks;
	uint32_t write_unit_blocks;
	uint32_t atomic_blocks;
	uint32_t buffer_align;
	bool write_cache;
	bool flush;
	bool trim;
	bool write_zeroes;
	bool compare_and_write;
	bool zoned;
	bool writes;
};

void boson_spdk_describe_bdev(const struct spdk_bdev *bdev, struct boson_spdk_bdev *out);

/* Sets what kinds of threads SPDK may ask for; `on_thread` gets every thread that it creates itself. */
int boson_spdk_thread_library_start(int (*on_thread)(void *thread, int operation), size_t messages);

#endif
