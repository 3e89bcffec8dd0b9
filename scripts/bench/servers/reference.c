/* What the others are measured by: servers of the base protocol in C, with one thread and one epoll loop.
 *
 *     reference tcp            epoll_wait, then one recv and one send for each question
 *     reference udp            the same with recvfrom and sendto, until nothing is left to read
 *     reference udp batched    recvmmsg and sendmmsg, 64 datagrams at a time
 *
 * As any careful server would, they write the part down to the second once a second. There is no
 * batched TCP: Linux has no call that reads from many connections, short of io_uring.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LENGTH = 26, EVENTS = 256, BATCH = 64, LONGEST = 2048 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void tell_time(char *answer)
{
    static char beginning[LENGTH];
    static time_t second;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != second) {
        struct tm local;
        second = now.tv_sec;
        strftime(beginning, sizeof beginning, "%Y-%m-%d %H:%M:%S.", localtime_r(&second, &local));
    }
    memcpy(answer, beginning, 20);
    long micros = now.tv_nsec / 1000;
    for (int place = LENGTH - 1; place >= 20; place--, micros /= 10)
        answer[place] = (char)('0' + micros % 10);
}

static int bound(int kind)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int buffer = 1 << 20, fd = socket(AF_INET, kind | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (kind == SOCK_DGRAM)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    else if (listen(fd, SOMAXCONN) < 0)
        fail("listen");
    getsockname(fd, (struct sockaddr *)&address, &length);
    fprintf(stderr, "serving 127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

static int watch(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void serve_tcp(int listener, int poller)
{
    struct epoll_event events[EVENTS];
    char data[LONGEST], answer[LENGTH];
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int one = 1, client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                if (client >= 0 && watch(poller, client) < 0)
                    close(client);
                continue;
            }
            if (recv(fd, data, sizeof data, 0) <= 0) {
                close(fd);
                continue;
            }
            tell_time(answer);
            if (send(fd, answer, LENGTH, MSG_NOSIGNAL) != LENGTH)
                close(fd);
        }
    }
}

static void serve_udp(int fd, int poller)
{
    struct epoll_event event;
    struct sockaddr_in sender;
    char data[LONGEST], answer[LENGTH];
    for (;;) {
        epoll_wait(poller, &event, 1, -1);
        socklen_t length = sizeof sender;
        while (recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&sender, &length) >= 0) {
            tell_time(answer);
            sendto(fd, answer, LENGTH, 0, (struct sockaddr *)&sender, length);
            length = sizeof sender;
        }
    }
}

static void serve_udp_batched(int fd, int poller)
{
    static struct sockaddr_in senders[BATCH];
    static char data[BATCH][LONGEST], answers[BATCH][LENGTH];
    static struct iovec in[BATCH], out[BATCH];
    static struct mmsghdr questions[BATCH], replies[BATCH];
    struct epoll_event event;
    for (int i = 0; i < BATCH; i++) {
        in[i] = (struct iovec){data[i], LONGEST};
        out[i] = (struct iovec){answers[i], LENGTH};
        questions[i].msg_hdr = (struct msghdr){.msg_name = &senders[i], .msg_iov = &in[i], .msg_iovlen = 1};
        replies[i].msg_hdr = (struct msghdr){
            .msg_name = &senders[i], .msg_namelen = sizeof senders[i], .msg_iov = &out[i], .msg_iovlen = 1};
    }
    for (;;) {
        epoll_wait(poller, &event, 1, -1);
        int got;
        do {
            for (int i = 0; i < BATCH; i++)
                questions[i].msg_hdr.msg_namelen = sizeof senders[i];
            got = recvmmsg(fd, questions, BATCH, 0, NULL);
            for (int i = 0; i < got; i++)
                tell_time(answers[i]);
            for (int sent = 0, now; sent < got; sent += now) {
                now = sendmmsg(fd, replies + sent, (unsigned)(got - sent), 0);
                if (now <= 0)
                    now = 1; /* that one cannot be sent; the others can */
            }
        } while (got == BATCH);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    int tcp = strcmp(argv[1], "tcp") == 0;
    int fd = bound(tcp ? SOCK_STREAM : SOCK_DGRAM), poller = epoll_create1(0);
    if (watch(poller, fd) < 0)
        fail("epoll_ctl");
    if (tcp)
        serve_tcp(fd, poller);
    else if (argc > 2)
        serve_udp_batched(fd, poller);
    else
        serve_udp(fd, poller);
}
