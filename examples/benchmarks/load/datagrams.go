package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"
)

const (
	largestDatagram = 65535
	lostAfter       = 2 * time.Second
)

// Both ends are one thread over epoll each and bare system calls: with a goroutine per socket they would need more
// CPU than the proxies, and be what is measured.

// echo sends every datagram back where it came from, on every address it is given.
func echo(arguments []string) {
	flags := flag.NewFlagSet("echo", flag.ExitOnError)
	addresses := flags.String("listen", "127.0.0.1:0", "addresses to serve on, separated by commas")
	_ = flags.Parse(arguments)
	endAfter(longestLife)
	poller := newPoller()
	for _, address := range strings.Split(*addresses, ",") {
		mustBeLoopback(address, false)
		socket := datagramSocket()
		if err := syscall.Bind(socket, ipv4(address)); err != nil {
			fail("%s: %v", address, err)
		}
		poller.add(socket)
	}
	buffer := make([]byte, largestDatagram)
	for {
		for _, socket := range poller.wait(-1) {
			sendBack(socket, buffer)
		}
	}
}

// sendBack empties a socket.
func sendBack(socket int, buffer []byte) {
	for {
		size, client, err := syscall.Recvfrom(socket, buffer, 0)
		if err != nil {
			return
		}
		// A reply that cannot be sent is missed, and counted, by its client.
		_ = syscall.Sendto(socket, buffer[:size], 0, client)
	}
}

// A flow is one client's socket, with at most one datagram under way.
type flow struct {
	tally
	socket   int
	datagram []byte
	number   uint64
	sent     time.Time
	waiting  bool
}

// datagrams opens the sockets. What it returns sends so many datagrams from them, at least one from each, and waits
// for each to come back.
func (r *run) datagrams() func(int64) result {
	e := &exchange{run: r, poller: newPoller(), flows: map[int]*flow{}, buffer: make([]byte, largestDatagram)}
	for range r.connections {
		e.open(&flow{datagram: make([]byte, r.size)})
	}
	return e.share
}

type exchange struct {
	run    *run
	poller *poller
	flows  map[int]*flow
	buffer []byte
}

func (e *exchange) open(f *flow) {
	f.socket = datagramSocket()
	if err := syscall.Connect(f.socket, ipv4(e.run.target)); err != nil {
		fail("%s: %v", e.run.target, err)
	}
	e.poller.add(f.socket)
	e.flows[f.socket] = f
}

// reopen gives a flow another socket, so that a late reply is not taken for that to the next datagram.
func (e *exchange) reopen(f *flow) {
	delete(e.flows, f.socket)
	syscall.Close(f.socket)
	e.open(f)
}

func (e *exchange) share(count int64) result {
	start := time.Now()
	end := start.Add(e.run.limit)
	left := count
	all := make([]*flow, 0, len(e.flows))
	for _, f := range e.flows {
		all = append(all, f)
	}
	for _, f := range all {
		f.reset()
		e.send(f)
		left--
	}
	for waiting := len(all); waiting > 0; {
		var done []*flow
		for _, socket := range e.poller.wait(lostAfter / 4) {
			if f := e.flows[socket]; f != nil && e.receive(f) {
				done = append(done, f)
			}
		}
		for _, f := range append(done, e.lost(all)...) {
			if left > 0 && time.Now().Before(end) {
				e.send(f)
				left--
			} else {
				waiting--
			}
		}
	}
	took := time.Since(start)
	tallies := make([]*tally, len(all))
	for i, f := range all {
		tallies[i] = &f.tally
	}
	return summary(tallies, took)
}

// send numbers the datagram, so that no two of a flow are equal.
func (e *exchange) send(f *flow) {
	f.number++
	binary.LittleEndian.PutUint64(f.datagram, f.number)
	f.sent, f.waiting = time.Now(), true
	// What was not sent does not come back, which is noticed.
	_, _ = syscall.Write(f.socket, f.datagram)
}

// receive reports whether a flow has come to an end of its wait, well or not.
func (e *exchange) receive(f *flow) bool {
	size, err := syscall.Read(f.socket, e.buffer)
	if errors.Is(err, syscall.EAGAIN) || !f.waiting {
		return false
	}
	f.waiting = false
	if err == nil && !bytes.Equal(e.buffer[:size], f.datagram) {
		err = errors.New("reply is another datagram than the request")
	}
	if err != nil {
		f.miss(err)
		e.reopen(f)
		return true
	}
	f.bytes += int64(size)
	f.times = append(f.times, time.Since(f.sent))
	return true
}

// lost looks for flows that have waited too long, at most every quarter of that time.
func (e *exchange) lost(all []*flow) []*flow {
	if !e.poller.isTime(lostAfter / 4) {
		return nil
	}
	var found []*flow
	for _, f := range all {
		if f.waiting && time.Since(f.sent) > lostAfter {
			f.waiting = false
			f.miss(fmt.Errorf("no reply within %v", lostAfter))
			e.reopen(f)
			found = append(found, f)
		}
	}
	return found
}

type poller struct {
	epoll  int
	events []syscall.EpollEvent
	ready  []int
	looked time.Time
}

func newPoller() *poller {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		fail("%v", err)
	}
	return &poller{epoll: epoll, events: make([]syscall.EpollEvent, mostConnections), looked: time.Now()}
}

func (p *poller) add(socket int) {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(socket)}
	if err := syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, socket, &event); err != nil {
		fail("%v", err)
	}
}

// wait returns the sockets that can be read, within a time limit where it is positive.
func (p *poller) wait(limit time.Duration) []int {
	count, err := syscall.EpollWait(p.epoll, p.events, milliseconds(limit))
	if err != nil && !errors.Is(err, syscall.EINTR) {
		fail("%v", err)
	}
	p.ready = p.ready[:0]
	for _, event := range p.events[:max(count, 0)] {
		p.ready = append(p.ready, int(event.Fd))
	}
	return p.ready
}

func (p *poller) isTime(interval time.Duration) bool {
	now := time.Now()
	if now.Sub(p.looked) < interval {
		return false
	}
	p.looked = now
	return true
}

func datagramSocket() int {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		fail("%v", err)
	}
	return socket
}

func ipv4(address string) *syscall.SockaddrInet4 {
	resolved, err := net.ResolveUDPAddr("udp4", address)
	if err != nil {
		fail("%v", err)
	}
	return &syscall.SockaddrInet4{Port: resolved.Port, Addr: [4]byte(resolved.IP.To4())}
}

// milliseconds is epoll's notion of a time limit: less than nothing is none.
func milliseconds(limit time.Duration) int {
	if limit < 0 {
		return -1
	}
	return int(limit.Milliseconds())
}
