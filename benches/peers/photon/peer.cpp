// The Photon side of the comparison: `peers` runs this program when PHOTON_PEER names it. Links with an installed libphoton.
//
//   photon-peer yield N          nanoseconds per thread_yield of N threads
//   photon-peer spawn N          nanoseconds per thread created and joined, N at a time
//   photon-peer read SECONDS     latencies of 4 KiB reads beside a thread that yields: p50 p99 p99.9 in microseconds
//   photon-peer pipe SECONDS     the same for messages that another OS thread sends through a pipe
//   photon-peer echo ENGINE CPU   an echo server; ENGINE is uring or epoll; prints its address
//
// It ends itself after two minutes. Photon is set up as its own benchmarks do: pooled stacks, no logging, the io_uring event engine unless said otherwise.
#include <photon/common/alog.h>
#include <photon/io/fd-events.h>
#include <photon/io/iouring-wrapper.h>
#include <photon/net/socket.h>
#include <photon/photon.h>
#include <photon/thread/thread11.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

static constexpr uint64_t STACK_BYTES = 64 << 10;
static constexpr size_t BUFFER_BYTES = 4096;

static uint64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) perror("sched_setaffinity"), exit(1);
}

static int start(uint64_t engine) {
    photon::PhotonOptions options;
    options.use_pooled_stack_allocator = photon::STACK_ALLOCATOR_POOLED;
    return photon::init(engine, photon::INIT_IO_NONE, options);
}

struct Yields {
    uint64_t count;
};

static void* yield_many(void* argument) {
    for (uint64_t left = static_cast<Yields*>(argument)->count; left > 0; left--) photon::thread_yield();
    return nullptr;
}

static void join_all(std::vector<photon::join_handle*>& joins) {
    for (auto join : joins) photon::thread_join(join);
    joins.clear();
}

static void yields(uint64_t threads) {
    const uint64_t total = 2'000'000;
    Yields each{total / threads};
    std::vector<photon::join_handle*> joins;
    auto start = now_ns();
    for (uint64_t i = 0; i < threads; i++)
        joins.push_back(photon::thread_enable_join(photon::thread_create(yield_many, &each, STACK_BYTES)));
    join_all(joins);
    printf("%f\n", double(now_ns() - start) / double(each.count * threads));
}

static void* nothing(void* argument) { return argument; }

static void spawns(uint64_t batch) {
    const uint64_t total = 500'000;
    std::vector<photon::join_handle*> joins;
    auto start = now_ns();
    for (uint64_t done = 0; done < total; done += batch) {
        for (uint64_t i = 0; i < batch; i++)
            joins.push_back(photon::thread_enable_join(photon::thread_create(nothing, nullptr, STACK_BYTES)));
        join_all(joins);
    }
    printf("%f\n", double(now_ns() - start) / double(total));
}

static void report(std::vector<uint64_t>& samples) {
    if (samples.empty()) fprintf(stderr, "no sample\n"), exit(1);
    std::sort(samples.begin(), samples.end());
    auto at = [&](double share) { return double(samples[size_t(double(samples.size() - 1) * share)]) / 1e3; };
    printf("%f %f %f\n", at(0.5), at(0.99), at(0.999));
}

static bool stop_yielding = false;

static void* yield_until_stopped(void*) {
    while (!stop_yielding) photon::thread_yield();
    return nullptr;
}

static photon::join_handle* start_yielding() {
    return photon::thread_enable_join(photon::thread_create(yield_until_stopped, nullptr, STACK_BYTES));
}

static void reads(uint64_t seconds) {
    char path[] = "/dev/shm/photon-peer.XXXXXX";
    int fd = mkstemp(path);
    static char block[BUFFER_BYTES];
    if (fd < 0 || write(fd, block, sizeof(block)) != ssize_t(sizeof(block))) perror("file"), exit(1);
    unlink(path);
    auto yielding = start_yielding();
    std::vector<uint64_t> samples;
    for (auto end = now_ns() + seconds * 1'000'000'000; now_ns() < end;) {
        auto before = now_ns();
        if (photon::iouring_pread(fd, block, sizeof(block), 0) != ssize_t(sizeof(block))) perror("read"), exit(1);
        samples.push_back(now_ns() - before);
    }
    stop_yielding = true;
    photon::thread_join(yielding);
    report(samples);
}

static void messages(uint64_t seconds) {
    int fds[2];
    if (pipe(fds)) perror("pipe"), exit(1);
    // The next message leaves some time after the last was received: they never queue up.
    std::atomic<bool> received{true};
    std::thread sender([fd = fds[1], seconds, &received] {
        pin(1);
        for (auto end = now_ns() + seconds * 1'000'000'000; now_ns() < end;) {
            while (!received.exchange(false)) usleep(20);
            usleep(100);
            uint64_t sent_at = now_ns();
            if (write(fd, &sent_at, sizeof(sent_at)) != ssize_t(sizeof(sent_at))) return;
        }
        close(fd);
    });
    auto yielding = start_yielding();
    std::vector<uint64_t> samples;
    uint64_t sent_at;
    while (photon::iouring_pread(fds[0], &sent_at, sizeof(sent_at), -1) == ssize_t(sizeof(sent_at))) {
        samples.push_back(now_ns() - sent_at);
        received = true;
    }
    stop_yielding = true;
    photon::thread_join(yielding);
    sender.join();
    report(samples);
}

static int echo_one(void*, photon::net::ISocketStream* stream) {
    stream->setsockopt<int>(IPPROTO_TCP, TCP_NODELAY, 1);
    char buffer[BUFFER_BYTES];
    for (;;) {
        ssize_t len = stream->recv(buffer, sizeof(buffer));
        if (len <= 0 || stream->write(buffer, len) != len) return 0;
    }
}

static void echo(bool uring) {
    auto server = uring ? photon::net::new_iouring_tcp_server() : photon::net::new_tcp_socket_server();
    server->set_handler({nullptr, &echo_one});
    if (server->bind(photon::net::EndPoint(photon::net::IPAddr("127.0.0.1"), 0)) || server->listen(4096) ||
        server->start_loop(false))
        perror("echo"), exit(1);
    printf("127.0.0.1:%d\n", int(server->getsockname().port));
    fflush(stdout);
    photon::thread_sleep(-1);
}

int main(int argc, char** argv) {
    std::string what = argc > 2 ? argv[1] : "";
    set_log_output_level(ALOG_FATAL);
    alarm(120);
    bool epoll = what == "echo" && std::string(argv[2]) == "epoll";
    pin(what == "echo" && argc > 3 ? atoi(argv[3]) : 0);
    if (start(epoll ? photon::INIT_EVENT_EPOLL : photon::INIT_EVENT_IOURING)) perror("photon"), exit(1);
    if (what == "yield")
        yields(strtoull(argv[2], nullptr, 10));
    else if (what == "spawn")
        spawns(strtoull(argv[2], nullptr, 10));
    else if (what == "read")
        reads(strtoull(argv[2], nullptr, 10));
    else if (what == "pipe")
        messages(strtoull(argv[2], nullptr, 10));
    else if (what == "echo")
        echo(!epoll);
    else
        fprintf(stderr, "usage: photon-peer yield|spawn|read|pipe N, or echo uring|epoll CPU\n"), exit(2);
    fflush(stdout);
    _exit(0);
}
