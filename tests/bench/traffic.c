/* Traffic for the bench: plain sockets, copies as everybody makes them, one flow.
 *
 * traffic take PORT                                 one TCP connection; says "ready", then "BYTES SECONDS"
 * traffic stream ADDRESS PORT SECONDS               one TCP connection, as fast as it goes
 * traffic datagrams ADDRESS PORT SECONDS            UDP of 60-byte frames; says "PACKETS SECONDS"
 * traffic frames LINK MAC VID ADDRESS TO SECONDS    the same by a raw socket, tagged where VID is not 0
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 128 << 10, BATCH = 64, PAYLOAD = 18, SOURCE_PORT = 12345, DISCARD_PORT = 9 };

static void fail(const char *what)
{
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in make_address(const char *address, int port)
{
	struct sockaddr_in made = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, address, &made.sin_addr) != 1) {
		errno = EINVAL;
		fail(address);
	}
	return made;
}

static void take(int port)
{
	static char block[BLOCK];
	struct sockaddr_in here = make_address("0.0.0.0", port);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), peer;
	unsigned long long total = 0;
	double began = 0;
	ssize_t got;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1))
		fail("listen");
	puts("ready");
	fflush(stdout);
	if ((peer = accept(listener, NULL, NULL)) < 0)
		fail("accept");
	while ((got = read(peer, block, sizeof block)) > 0) {
		if (!total)
			began = now();
		total += got;
	}
	if (got < 0)
		fail("read");
	printf("%llu %.6f\n", total, now() - began);
}

static void stream(const char *address, int port, double seconds)
{
	static char block[BLOCK];
	struct sockaddr_in there = make_address(address, port);
	int out = socket(AF_INET, SOCK_STREAM, 0);
	double end;

	if (connect(out, (struct sockaddr *)&there, sizeof there))
		fail("connect");
	for (end = now() + seconds; now() < end;)
		if (write(out, block, sizeof block) < 0)
			fail("write");
	shutdown(out, SHUT_WR);
	if (read(out, block, 1) < 0) /* until the other side has read all of it */
		fail("read");
}

/* Sends *bytes* again and again, in batches. ENOBUFS is a full queue: tried again. */
static void blast(int out, void *bytes, size_t length, double seconds)
{
	struct iovec part = { bytes, length };
	struct mmsghdr batch[BATCH];
	unsigned long long sent = 0;
	double began = now(), ended;
	int count, i;

	memset(batch, 0, sizeof batch);
	for (i = 0; i < BATCH; i++) {
		batch[i].msg_hdr.msg_iov = &part;
		batch[i].msg_hdr.msg_iovlen = 1;
	}
	do {
		count = sendmmsg(out, batch, BATCH, 0);
		if (count < 0 && errno != ENOBUFS)
			fail("sendmmsg");
		sent += count > 0 ? count : 0;
		ended = now();
	} while (ended - began < seconds);
	printf("%llu %.6f\n", sent, ended - began);
}

static void datagrams(const char *address, int port, double seconds)
{
	static char payload[PAYLOAD];
	struct sockaddr_in there = make_address(address, port);
	int out = socket(AF_INET, SOCK_DGRAM, 0);

	if (connect(out, (struct sockaddr *)&there, sizeof there))
		fail("connect");
	blast(out, payload, sizeof payload, seconds);
}

/* The Internet checksum (RFC 1071). */
static uint16_t sum(const void *bytes, size_t length)
{
	const uint8_t *at = bytes;
	uint32_t total = 0;
	size_t i;

	for (i = 0; i + 1 < length; i += 2)
		total += at[i] << 8 | at[i + 1];
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return htons(~total);
}

static void frames(char **words)
{
	static uint8_t frame[ETH_FRAME_LEN];
	struct sockaddr_ll link = { .sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(words[0]) };
	struct ether_header *outer = (void *)frame;
	int vid = atoi(words[2]), out = socket(AF_PACKET, SOCK_RAW, 0);
	uint8_t *at = frame + sizeof *outer;
	struct iphdr ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP };
	struct udphdr udp = { .source = htons(SOURCE_PORT), .dest = htons(DISCARD_PORT) };
	struct in_addr own = make_address(words[3], 0).sin_addr, to = make_address(words[4], 0).sin_addr;

	if (!link.sll_ifindex || out < 0 || bind(out, (struct sockaddr *)&link, sizeof link))
		fail(words[0]);
	if (sscanf(words[1], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &outer->ether_dhost[0], &outer->ether_dhost[1],
		   &outer->ether_dhost[2], &outer->ether_dhost[3], &outer->ether_dhost[4], &outer->ether_dhost[5]) != 6)
		fail(words[1]);
	/* The MAC that goes with the last two bytes of the address: 02:00:00:00:50:50 for …80.80. */
	outer->ether_shost[0] = 2;
	memcpy(outer->ether_shost + 4, (uint8_t *)&own + 2, 2);
	outer->ether_type = htons(vid ? ETHERTYPE_VLAN : ETHERTYPE_IP);
	if (vid) {
		*at++ = vid >> 8;
		*at++ = vid;
		*at++ = ETHERTYPE_IP >> 8;
		*at++ = ETHERTYPE_IP & 0xff;
	}
	ip.tot_len = htons(sizeof ip + sizeof udp + PAYLOAD);
	ip.saddr = own.s_addr;
	ip.daddr = to.s_addr;
	ip.check = sum(&ip, sizeof ip);
	udp.len = htons(sizeof udp + PAYLOAD);
	memcpy(at, &ip, sizeof ip);
	memcpy(at + sizeof ip, &udp, sizeof udp);
	blast(out, frame, at + sizeof ip + sizeof udp + PAYLOAD - frame, atof(words[5]));
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "take"))
		take(atoi(words[2]));
	else if (count == 5 && !strcmp(words[1], "stream"))
		stream(words[2], atoi(words[3]), atof(words[4]));
	else if (count == 5 && !strcmp(words[1], "datagrams"))
		datagrams(words[2], atoi(words[3]), atof(words[4]));
	else if (count == 8 && !strcmp(words[1], "frames"))
		frames(words + 2);
	else {
		fputs("traffic: take | stream | datagrams | frames: see the head of traffic.c\n", stderr);
		return 2;
	}
	return 0;
}
