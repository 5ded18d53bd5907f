/* What bindgen translates; see the allowlist in build.rs. */
#include <spdk/stdinc.h>

#include <spdk/bdev.h>
#include <spdk/env.h>
#include <spdk/env_dpdk.h>
#include <spdk/init.h>
#include <spdk/nvme.h>
#include <spdk/rpc.h>
#include <spdk/thread.h>

#include "shim.h"
