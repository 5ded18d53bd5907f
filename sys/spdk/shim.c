#include <spdk/stdinc.h>

#include <spdk/bdev.h>
#include <spdk/env.h>
#include <spdk/log.h>
#include <spdk/nvme.h>
#include <spdk/nvme_spec.h>
#include <spdk/thread.h>
#include <spdk/util.h>
#include <spdk/version.h>

#include "shim.h"

/* --- The environment --- */

const char *boson_spdk_version(void)
{
	return SPDK_VERSION_STRING;
}

/*
 * SPDK's shared libraries do not name all that they need. A linker that keeps only what is used keeps these because they
 * are named here.
 */
extern char EVP_MD_CTX_free[], OPENSSL_init_ssl[], rte_pci_register[], rte_mempool_create[], rte_ring_create[];

const void *boson_spdk_needed(unsigned int index)
{
	static const void *const needed[] = { EVP_MD_CTX_free, OPENSSL_init_ssl, rte_pci_register, rte_mempool_create,
					      rte_ring_create };

	return index < sizeof(needed) / sizeof(needed[0]) ? needed[index] : NULL;
}

#define LONGEST_MESSAGE 1024

static boson_spdk_log_sink g_sink;
static int g_sink_level;

static void log_message(int level, const char *file, const int line, const char *function, const char *format,
			va_list arguments)
{
	char text[LONGEST_MESSAGE];
	int length;

	(void)file;
	(void)line;
	(void)function;
	/* SPDK leaves the choice to whoever takes its log. */
	if (level > g_sink_level)
		return;
	length = vsnprintf(text, sizeof(text), format, arguments);
	if (length <= 0)
		return;
	if ((size_t)length >= sizeof(text))
		length = sizeof(text) - 1;
	while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' '))
		length--;
	g_sink(level, text, (size_t)length);
}

void boson_spdk_log_redirect(boson_spdk_log_sink sink, int level)
{
	g_sink = sink;
	g_sink_level = level;
	spdk_log_open(log_message);
	spdk_log_set_level((enum spdk_log_level)level);
	spdk_log_set_print_level((enum spdk_log_level)level);
}

static struct sigaction g_spdk_sigbus;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	static __thread const void *last_address;
	static __thread int faults;

	/* A fault that was remedied does not come back at once; another that does has no remedy. */
	if (info->si_code > 0 && info->si_addr == last_address) {
		faults++;
	} else {
		last_address = info->si_addr;
		faults = 0;
	}
	if (info->si_code <= 0 || faults >= 2) {
		struct sigaction standard = { .sa_handler = SIG_DFL };

		sigaction(SIGBUS, &standard, NULL);
		if (info->si_code <= 0)
			raise(SIGBUS);
		return;
	}
	if (g_spdk_sigbus.sa_flags & SA_SIGINFO) {
		g_spdk_sigbus.sa_sigaction(number, info, context);
	} else if (g_spdk_sigbus.sa_handler != SIG_DFL && g_spdk_sigbus.sa_handler != SIG_IGN) {
		g_spdk_sigbus.sa_handler(number);
	}
}

int boson_spdk_bound_sigbus(void)
{
	struct sigaction now, ours = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigemptyset(&ours.sa_mask);
	if (sigaction(SIGBUS, NULL, &now) != 0)
		return -errno;
	if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus)
		return 0;
	g_spdk_sigbus = now;
	return sigaction(SIGBUS, &ours, NULL) == 0 ? 0 : -errno;
}

int boson_spdk_is_mapped(const void *address, size_t length)
{
	const uint8_t *byte = address;

	/* The translation says how far it holds; the whole range must have one. */
	while (length > 0) {
		uint64_t size = length;

		if (spdk_vtophys(byte, &size) == SPDK_VTOPHYS_ERROR || size == 0)
			return 0;
		if (size >= length)
			return 1;
		byte += size;
		length -= size;
	}
	return 1;
}

int boson_spdk_set_tcp_connect_timeout(uint32_t milliseconds)
{
	struct spdk_nvme_transport_opts options;

	spdk_nvme_transport_get_opts(&options, sizeof(options));
	options.tcp_connect_timeout_ms = milliseconds;
	return spdk_nvme_transport_set_opts(&options, sizeof(options));
}

/* --- NVMe controllers --- */

struct boson_spdk_attach {
	/* First: SPDK hands the address of the options to the callback. */
	struct spdk_nvme_ctrlr_opts options;
	struct spdk_nvme_probe_ctx *probe;
	struct spdk_nvme_ctrlr *controller;
};

static void attached(void *context, const struct spdk_nvme_transport_id *transport, struct spdk_nvme_ctrlr *controller,
		     const struct spdk_nvme_ctrlr_opts *options)
{
	struct boson_spdk_attach *attach = SPDK_CONTAINEROF(context, struct boson_spdk_attach, options);

	(void)transport;
	(void)options;
	attach->controller = controller;
}

struct boson_spdk_attach *boson_spdk_attach_start(const char *transport, const struct boson_spdk_attach_options *options,
						  int *error)
{
	struct spdk_nvme_transport_id id = { 0 };
	struct boson_spdk_attach *attach;

	*error = spdk_nvme_transport_id_parse(&id, transport);
	if (*error != 0)
		return NULL;
	attach = calloc(1, sizeof(*attach));
	if (attach == NULL) {
		*error = -ENOMEM;
		return NULL;
	}
	spdk_nvme_ctrlr_get_default_ctrlr_opts(&attach->options, sizeof(attach->options));
	attach->options.num_io_queues = options->io_queues;
	attach->options.io_queue_size = options->queue_entries;
	attach->options.io_queue_requests = options->requests;
	attach->options.keep_alive_timeout_ms = options->keep_alive_ms;
	attach->options.fabrics_connect_timeout_us = (uint64_t)options->connect_timeout_ms * 1000;
	attach->options.admin_timeout_ms = options->admin_timeout_ms;
	attach->options.disable_error_logging = true;
	attach->options.enable_interrupts = options->interrupts;
	attach->probe = spdk_nvme_connect_async(&id, &attach->options, attached);
	if (attach->probe == NULL) {
		free(attach);
		*error = -EIO;
		return NULL;
	}
	return attach;
}

int boson_spdk_attach_poll(struct boson_spdk_attach *attach, struct spdk_nvme_ctrlr **controller)
{
	int result = spdk_nvme_probe_poll_async(attach->probe);

	if (result == -EAGAIN)
		return result;
	*controller = attach->controller;
	free(attach);
	if (*controller != NULL)
		return 0;
	return result != 0 ? result : -EIO;
}

int boson_spdk_describe_namespace(struct spdk_nvme_ctrlr *controller, uint32_t nsid, struct boson_spdk_namespace *out)
{
	struct spdk_nvme_ns *ns = spdk_nvme_ctrlr_get_ns(controller, nsid);
	uint32_t flags;

	if (ns == NULL || !spdk_nvme_ns_is_active(ns))
		return -ENODEV;
	flags = spdk_nvme_ns_get_flags(ns);
	out->blocks = spdk_nvme_ns_get_num_sectors(ns);
	out->block_bytes = spdk_nvme_ns_get_sector_size(ns);
	out->metadata_bytes = spdk_nvme_ns_get_md_size(ns);
	out->max_transfer_bytes = spdk_nvme_ns_get_max_io_xfer_size(ns);
	out->boundary_blocks = spdk_nvme_ns_get_optimal_io_boundary(ns);
	out->max_segments = spdk_nvme_ctrlr_get_max_sges(controller);
	out->io_queues = (uint16_t)spdk_min(spdk_nvme_ctrlr_get_opts(controller)->num_io_queues, UINT16_MAX);
	out->flush = flags & SPDK_NVME_NS_FLUSH_SUPPORTED;
	out->trim = flags & SPDK_NVME_NS_DEALLOCATE_SUPPORTED;
	out->write_zeroes = flags & SPDK_NVME_NS_WRITE_ZEROES_SUPPORTED;
	out->compare_and_write =
		spdk_nvme_ctrlr_get_flags(controller) & SPDK_NVME_CTRLR_COMPARE_AND_WRITE_SUPPORTED;
	return 0;
}

const uint8_t *boson_spdk_identify_controller(struct spdk_nvme_ctrlr *controller)
{
	return (const uint8_t *)spdk_nvme_ctrlr_get_data(controller);
}

const uint8_t *boson_spdk_identify_namespace(struct spdk_nvme_ns *ns)
{
	return (const uint8_t *)spdk_nvme_ns_get_data(ns);
}

int boson_spdk_scan_bus(void)
{
	struct spdk_nvme_transport_id bus = { .trtype = SPDK_NVME_TRANSPORT_PCIE, .trstring = "PCIE" };

	return spdk_nvme_scan_attached(&bus);
}

uint32_t boson_spdk_controller_status(struct spdk_nvme_ctrlr *controller)
{
	union spdk_nvme_csts_register status = spdk_nvme_ctrlr_get_regs_csts(controller);

	if (status.raw == UINT32_MAX)
		return BOSON_SPDK_REMOVED;
	return (status.bits.cfs ? BOSON_SPDK_FATAL : 0) | (status.bits.rdy ? BOSON_SPDK_READY : 0);
}

void boson_spdk_disable(struct spdk_nvme_ctrlr *controller)
{
	volatile struct spdk_nvme_registers *registers = spdk_nvme_ctrlr_get_registers(controller);
	union spdk_nvme_cc_register configuration;

	if (registers == NULL)
		return;
	configuration.raw = registers->cc.raw;
	configuration.bits.en = 0;
	registers->cc.raw = configuration.raw;
}

uint32_t boson_spdk_ready_timeout_ms(struct spdk_nvme_ctrlr *controller)
{
	return (uint32_t)spdk_nvme_ctrlr_get_regs_cap(controller).bits.to * 500;
}

void boson_spdk_ask_for(struct spdk_nvme_ctrlr *controller, uint32_t io_queues, bool interrupts)
{
	/* These are the controller's own options, which SPDK changes too; only its users may not. */
	struct spdk_nvme_ctrlr_opts *options = (struct spdk_nvme_ctrlr_opts *)spdk_nvme_ctrlr_get_opts(controller);
	struct spdk_pci_device *device = spdk_nvme_ctrlr_get_pci_device(controller);

	if (options->enable_interrupts && device != NULL)
		spdk_pci_device_disable_interrupts(device);
	options->num_io_queues = io_queues;
	options->enable_interrupts = interrupts;
}

bool boson_spdk_has_interrupts(struct spdk_nvme_ctrlr *controller)
{
	return spdk_nvme_ctrlr_get_opts(controller)->enable_interrupts;
}

#define PCI_COMMAND 4
#define PCI_COMMAND_MASTER 4

int boson_spdk_set_bus_master(struct spdk_nvme_ctrlr *controller, bool allowed)
{
	struct spdk_pci_device *device = spdk_nvme_ctrlr_get_pci_device(controller);
	uint16_t command;
	int result;

	if (device == NULL)
		return -ENODEV;
	result = spdk_pci_device_cfg_read16(device, &command, PCI_COMMAND);
	if (result != 0)
		return result;
	command = allowed ? command | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER;
	result = spdk_pci_device_cfg_write16(device, command, PCI_COMMAND);
	if (result != 0)
		return result;
	/* Reading waits for what the device wrote before. */
	return spdk_pci_device_cfg_read16(device, &command, PCI_COMMAND);
}

struct spdk_nvme_qpair *boson_spdk_qpair_allocate(struct spdk_nvme_ctrlr *controller, uint32_t requests,
						  bool batch_doorbells)
{
	struct spdk_nvme_io_qpair_opts options;

	spdk_nvme_ctrlr_get_default_io_qpair_opts(controller, &options, sizeof(options));
	options.io_queue_requests = requests;
	options.delay_cmd_submit = batch_doorbells;
	options.create_only = true;
	options.async_mode = true;
	return spdk_nvme_ctrlr_alloc_io_qpair(controller, &options, sizeof(options));
}

uint16_t boson_spdk_status(const struct spdk_nvme_cpl *completion)
{
	return completion->status_raw >> 1;
}

uint64_t boson_spdk_namespace_bytes(struct spdk_nvme_ns *ns)
{
	return spdk_nvme_ns_is_active(ns) ? spdk_nvme_ns_get_size(ns) : 0;
}

int boson_spdk_read(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
		    struct iovec *pieces, uint32_t count, boson_spdk_done done, void *argument)
{
	if (count == 1)
		return spdk_nvme_ns_cmd_read(ns, qpair, pieces->iov_base, block, blocks, done, argument, 0);
	return spdk_nvme_ns_cmd_read_iov(ns, qpair, block, blocks, done, argument, pieces, count, NULL);
}

int boson_spdk_write(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
		     struct iovec *pieces, uint32_t count, bool durable, boson_spdk_done done, void *argument)
{
	static struct spdk_nvme_ns_cmd_ext_io_opts through = { .size = sizeof(through),
							       .io_flags = SPDK_NVME_IO_FLAGS_FORCE_UNIT_ACCESS };

	if (count == 1)
		return spdk_nvme_ns_cmd_write(ns, qpair, pieces->iov_base, block, blocks, done, argument,
					      durable ? SPDK_NVME_IO_FLAGS_FORCE_UNIT_ACCESS : 0);
	return spdk_nvme_ns_cmd_write_iov(ns, qpair, block, blocks, done, argument, pieces, count,
					  durable ? &through : NULL);
}

int boson_spdk_trim(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
		    boson_spdk_done done, void *argument)
{
	struct spdk_nvme_dsm_range range = { 0 };

	/* SPDK copies the range. */
	range.starting_lba = block;
	range.length = blocks;
	return spdk_nvme_ns_cmd_dataset_management(ns, qpair, SPDK_NVME_DSM_ATTR_DEALLOCATE, &range, 1, done, argument);
}

int boson_spdk_write_zeroes(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
			    boson_spdk_done done, void *argument)
{
	return spdk_nvme_ns_cmd_write_zeroes(ns, qpair, block, blocks, done, argument, 0);
}

int boson_spdk_compare_and_write(struct spdk_nvme_ns *ns, struct spdk_nvme_qpair *qpair, uint64_t block, uint32_t blocks,
				 void *expected, void *data, boson_spdk_done compared, boson_spdk_done written,
				 void *argument, uint32_t *submitted)
{
	int result;

	*submitted = 0;
	result = spdk_nvme_ns_cmd_compare(ns, qpair, expected, block, blocks, compared, argument,
					  SPDK_NVME_IO_FLAGS_FUSE_FIRST);
	if (result != 0)
		return result;
	*submitted = 1;
	result = spdk_nvme_ns_cmd_write(ns, qpair, data, block, blocks, written, argument,
					SPDK_NVME_IO_FLAGS_FUSE_SECOND);
	if (result == 0)
		*submitted = 2;
	return result;
}

/* --- Block devices of SPDK --- */

void boson_spdk_describe_bdev(const struct spdk_bdev *bdev, struct boson_spdk_bdev *out)
{
	/* The question does not change the device, but SPDK does not say so. */
	struct spdk_bdev *asked = (struct spdk_bdev *)bdev;

	out->blocks = spdk_bdev_get_num_blocks(bdev);
	out->block_bytes = spdk_bdev_get_block_size(bdev);
	out->metadata_bytes = spdk_bdev_get_md_size(bdev);
	out->boundary_blocks = spdk_bdev_get_optimal_io_boundary(bdev);
	out->write_unit_blocks = spdk_bdev_get_write_unit_size(bdev);
	out->atomic_blocks = spdk_bdev_get_acwu(bdev);
	out->buffer_align = (uint32_t)spdk_bdev_get_buf_align(bdev);
	out->write_cache = spdk_bdev_has_write_cache(bdev);
	out->flush = spdk_bdev_io_type_supported(asked, SPDK_BDEV_IO_TYPE_FLUSH);
	out->trim = spdk_bdev_io_type_supported(asked, SPDK_BDEV_IO_TYPE_UNMAP);
	out->write_zeroes = spdk_bdev_io_type_supported(asked, SPDK_BDEV_IO_TYPE_WRITE_ZEROES);
	out->compare_and_write = spdk_bdev_io_type_supported(asked, SPDK_BDEV_IO_TYPE_COMPARE_AND_WRITE);
	out->zoned = spdk_bdev_is_zoned(bdev);
	out->writes = spdk_bdev_io_type_supported(asked, SPDK_BDEV_IO_TYPE_WRITE);
}

static int (*g_on_thread)(void *thread, int operation);

static int thread_operation(struct spdk_thread *thread, enum spdk_thread_op operation)
{
	return g_on_thread(thread, operation);
}

static bool thread_operation_is_supported(enum spdk_thread_op operation)
{
	return operation == SPDK_THREAD_OP_NEW || operation == SPDK_THREAD_OP_RESCHED;
}

int boson_spdk_thread_library_start(int (*on_thread)(void *thread, int operation), size_t messages)
{
	g_on_thread = on_thread;
	return spdk_thread_lib_init_ext(thread_operation, thread_operation_is_supported, 0, messages);
}
