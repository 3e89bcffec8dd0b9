/* The load: clients that ask a server on the loopback interface, wait for the answer, look at it,
 * and ask again.
 *
 *     load tcp|udp|ntp PORT CLIENTS SOURCES spin|sleep WARM-UP DURATION PID...
 *     load idle        PORT CLIENTS SOURCES
 *
 * It is in C because in Python it would be slower than the servers. One thread does it all. With spin it
 * never sleeps: a server that had to wake it up would pay for that, and by chance, so figures would differ
 * from run to run. So it needs a core of its own. With sleep it waits in epoll while there is nothing to do,
 * and leaves its core to the server.
 *
 * tcp, udp: the base protocol; an answer has 26 bytes and the shape of 2020-06-15 15:34:33.899256.
 * ntp:      questions of 48 bytes, each with a stamp of its own that the answer must return.
 * idle:     opens TCP connections and has each answered once, or the server may not have accepted it.
 *           Says so on standard output and holds them until standard input ends. For each line that it
 *           reads there all of them ask at once, and it says so again when all have been answered.
 *
 * The clients are spread over SOURCES addresses, 127.0.0.1 and those after it. PIDs are of the server: what
 * processor time they take is read here, to be of the very interval that the answers are of; so is
 * our own, load_cpu.
 *
 * A datagram that is not answered within 0.2 s is lost. Its client asks again from a new port, so that
 * an answer that comes late cannot be taken for that to the next question.
 *
 * The result is one line of JSON; times of answers are in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, LONGEST_ANSWER = 2048 };
static const int64_t SECOND = 1000000000, PATIENCE = 200000000, CHECK = 20000000;
static const char SHAPE[] = "0000-00-00 00:00:00.000000"; /* 0 stands for any digit */

struct client {
    int fd;
    int got;         /* bytes of the answer so far; TCP may cut it */
    int64_t asked;   /* when, in ns */
    uint64_t stamp;  /* of the question, for NTP */
    char answer[sizeof SHAPE];
};

static enum { TCP, UDP, NTP } mode;
static int port, sources, poller;
static uint64_t next_stamp;
static struct { int64_t answers, lost, wrong; } count;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t nanoseconds(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) < 0)
        fail("clock_gettime");
    return time.tv_sec * SECOND + time.tv_nsec;
}

/* A histogram of the times of answers, with 64 steps to each power of two, so that no figure is off by
 * more than 1.6 %. */
enum { STEPS = 64, PLACES = 34 * STEPS };
static int64_t histogram[PLACES], slowest;

static void note_latency(int64_t time)
{
    int shift = 63 - __builtin_clzll((uint64_t)time | STEPS) - 6; /* so that STEPS to 2 * STEPS - 1 are left */
    int64_t place = shift * STEPS + (time >> shift);
    if (place < PLACES)
        histogram[place]++;
    if (time > slowest)
        slowest = time;
}

static void forget(void)
{
    memset(&count, 0, sizeof count);
    memset(histogram, 0, sizeof histogram);
    slowest = 0;
}

static double latency(double part)
{
    int64_t left = (int64_t)(part * (double)count.answers);
    for (int place = 0; place < PLACES; place++) {
        left -= histogram[place];
        if (left < 0) {
            int shift = place < 2 * STEPS ? 0 : place / STEPS - 1;
            return (place - shift * STEPS + 0.5) * (double)(1LL << shift) / 1000;
        }
    }
    return (double)slowest / 1000;
}

static void tell_latencies(void)
{
    printf("\"latency\": {\"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, \"p99.9\": %.2f, \"max\": %.2f}}\n",
           latency(0.5), latency(0.9), latency(0.99), latency(0.999), (double)slowest / 1000);
    fflush(stdout);
}

/* Clients */

static int connected(int kind, int number)
{
    int one = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in server = here;
    int fd = socket(AF_INET, kind, 0);
    if (fd < 0)
        fail("socket");
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number % sources));
    server.sin_port = htons((uint16_t)port);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one); /* connect chooses it */
    if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0)
        fail("bind");
    if (kind == SOCK_STREAM) {
        /* A reset at the end, or thousands of ports would be in TIME_WAIT when the next server is asked. */
        struct linger reset = {.l_onoff = 1};
        struct timeval patience = {.tv_sec = 10};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
        fail("connect");
    return fd;
}

static int is_time(const char *answer, ssize_t length)
{
    if (length != sizeof SHAPE - 1)
        return 0;
    for (int i = 0; i < (int)sizeof SHAPE - 1; i++)
        if (SHAPE[i] == '0' ? answer[i] < '0' || answer[i] > '9' : answer[i] != SHAPE[i])
            return 0;
    return 1;
}

static int is_ntp_answer(const char *answer, ssize_t length, uint64_t stamp)
{
    return length == 48 && (answer[0] & 7) == 4 && memcmp(answer + 24, &stamp, sizeof stamp) == 0;
}

static void note_answer(int is_right, int64_t time)
{
    if (is_right) {
        count.answers++;
        note_latency(time);
    } else {
        count.wrong++;
    }
}

static void ask(struct client *client, int64_t now)
{
    char question[48] = "t";
    size_t length = 1;
    if (mode == NTP) {
        question[0] = 4 << 3 | 3; /* version 4, a client */
        client->stamp = ++next_stamp;
        memcpy(question + 40, &client->stamp, sizeof client->stamp);
        length = sizeof question;
    }
    client->got = 0;
    client->asked = now;
    /* A datagram that cannot be sent counts as lost when its time is over. */
    if (send(client->fd, question, length, MSG_NOSIGNAL) < 0 && mode == TCP)
        fail("send");
}

/* A TCP connection that has been answered, which the server must have accepted for that. As they come one
 * by one, no server's backlog is too short. */
static int answered_connection(int number)
{
    char answer[LONGEST_ANSWER];
    int64_t begin = nanoseconds(CLOCK_MONOTONIC);
    int fd = connected(SOCK_STREAM, number);
    if (send(fd, "t", 1, MSG_NOSIGNAL) < 0)
        fail("send");
    ssize_t length = recv(fd, answer, sizeof SHAPE - 1, MSG_WAITALL);
    if (length < 0)
        fail("recv");
    note_answer(is_time(answer, length), nanoseconds(CLOCK_MONOTONIC) - begin);
    return fd;
}

static void watch(struct client *client)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event) < 0)
        fail("epoll_ctl");
}

static void take_datagram(struct client *client)
{
    char answer[LONGEST_ANSWER];
    ssize_t length = recv(client->fd, answer, sizeof answer, MSG_DONTWAIT);
    if (length < 0)
        return; /* nothing, or the server has no such port now: it is lost when its time is over */
    int64_t now = nanoseconds(CLOCK_MONOTONIC);
    int is_right = mode == NTP ? is_ntp_answer(answer, length, client->stamp) : is_time(answer, length);
    note_answer(is_right, now - client->asked);
    ask(client, now);
}

/* Returns when the answer was complete, or 0 if it is not yet. */
static int64_t chunk_taken(struct client *client)
{
    /* One byte more than there should be, to see whether there is. */
    ssize_t length = recv(client->fd, client->answer + client->got, sizeof SHAPE - (size_t)client->got,
                          MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN)
        return 0;
    if (length <= 0) {
        fprintf(stderr, "the server ended a connection\n");
        exit(1);
    }
    client->got += (int)length;
    if (client->got < (int)sizeof SHAPE - 1)
        return 0;
    int64_t now = nanoseconds(CLOCK_MONOTONIC);
    note_answer(is_time(client->answer, client->got), now - client->asked);
    return now;
}

static void take_chunk(struct client *client)
{
    int64_t now = chunk_taken(client);
    if (now)
        ask(client, now);
}

static void ask_again_for_lost(struct client *clients, int number, int64_t now)
{
    for (int i = 0; i < number; i++)
        if (now - clients[i].asked > PATIENCE) {
            count.lost++;
            close(clients[i].fd);
            clients[i].fd = connected(SOCK_DGRAM, i);
            watch(&clients[i]);
            ask(&clients[i], now);
        }
}

static int64_t processor_time(int processes, char **pids)
{
    int64_t sum = 0;
    for (int i = 0; i < processes; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(atoi(pids[i]), &clock) != 0) {
            fprintf(stderr, "the server has ended\n");
            exit(1);
        }
        sum += nanoseconds(clock);
    }
    return sum;
}

/* Until the time is over, and anything has come: a short time may pass while the server has no processor. */
static void run(struct client *clients, int number, int64_t duration, int longest_wait)
{
    struct epoll_event events[EVENTS];
    void (*take)(struct client *) = mode == TCP ? take_chunk : take_datagram;
    int64_t now = nanoseconds(CLOCK_MONOTONIC), end = now + duration, next_check = now + CHECK;
    while (now < end || !(count.answers + count.wrong + count.lost)) {
        int ready = epoll_wait(poller, events, EVENTS, longest_wait);
        for (int i = 0; i < ready; i++)
            take(events[i].data.ptr);
        now = nanoseconds(CLOCK_MONOTONIC);
        if (mode != TCP && now >= next_check) {
            ask_again_for_lost(clients, number, now);
            next_check = now + CHECK;
        }
    }
}

/* Each asks before the first answer is looked at. */
static void ask_all_at_once(struct client *clients, int number)
{
    struct epoll_event events[EVENTS];
    for (int i = 0; i < number; i++)
        ask(&clients[i], nanoseconds(CLOCK_MONOTONIC));
    for (int left = number; left > 0;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++)
            if (chunk_taken(events[i].data.ptr))
                left--;
    }
}

static struct client *connected_clients(int number)
{
    struct client *clients = calloc((size_t)number, sizeof *clients);
    for (int i = 0; i < number; i++) {
        clients[i].fd = mode == TCP ? answered_connection(i) : connected(SOCK_DGRAM, i);
        watch(&clients[i]);
    }
    return clients;
}

static void tell_held(void)
{
    printf("{\"answers\": %lld, \"wrong\": %lld, ", (long long)count.answers, (long long)count.wrong);
    tell_latencies();
    forget();
}

static void hold(int number)
{
    struct client *clients = connected_clients(number);
    tell_held();
    for (int next; (next = getchar()) != EOF;)
        if (next == '\n') {
            ask_all_at_once(clients, number);
            tell_held();
        }
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    port = atoi(argv[2]);
    int number = atoi(argv[3]);
    sources = atoi(argv[4]);
    poller = epoll_create1(0);
    if (strcmp(argv[1], "idle") == 0) {
        hold(number);
        return 0;
    }
    if (argc < 8)
        return 2;
    mode = strcmp(argv[1], "tcp") == 0 ? TCP : strcmp(argv[1], "udp") == 0 ? UDP : NTP;
    int longest_wait = strcmp(argv[5], "sleep") == 0 ? (int)(CHECK / 1000000) : 0; /* in ms */
    int64_t warm_up = (int64_t)(atof(argv[6]) * 1e9), duration = (int64_t)(atof(argv[7]) * 1e9);
    int processes = argc - 8;
    char **pids = argv + 8;
    next_stamp = (uint64_t)nanoseconds(CLOCK_REALTIME);

    struct client *clients = connected_clients(number);
    for (int i = 0; i < number; i++)
        ask(&clients[i], nanoseconds(CLOCK_MONOTONIC));
    run(clients, number, warm_up, longest_wait);

    int64_t wrong_before = count.wrong; /* what is wrong in the warm-up is wrong all the same */
    forget();
    int64_t begin = nanoseconds(CLOCK_MONOTONIC), own_cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    int64_t cpu = processor_time(processes, pids);
    run(clients, number, duration, longest_wait);
    cpu = processor_time(processes, pids) - cpu;
    own_cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - own_cpu;
    int64_t end = nanoseconds(CLOCK_MONOTONIC);

    printf("{\"answers\": %lld, \"lost\": %lld, \"wrong\": %lld, \"seconds\": %.6f, \"cpu\": %.6f, "
           "\"load_cpu\": %.6f, ",
           (long long)count.answers, (long long)count.lost, (long long)(count.wrong + wrong_before),
           (double)(end - begin) / 1e9, (double)cpu / 1e9, (double)own_cpu / 1e9);
    tell_latencies();
    return 0;
}
