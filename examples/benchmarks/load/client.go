package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	requestSize     = 100
	mostConnections = 16_000
	mostRequests    = 10_000_000
	grace           = 5 * time.Second
)

// A run is one way of asking: so many connections, so many requests among them, each for size bytes. Over UDP a
// connection is a socket, and a request is a datagram of size bytes that comes back.
type run struct {
	target      string
	connections int
	size        int
	reconnect   bool
	limit       time.Duration
	request     []byte
	head        []byte
}

type result struct {
	Requests   int64   `json:"requests"`
	Failed     int64   `json:"failed"`
	FirstError string  `json:"first_error"`
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
}

// client opens its connections, warms up, prints "ready" and waits for a line on stdin; then it measures, prints one
// line of JSON and keeps its connections until stdin closes. Whoever reads the proxy's CPU clock at those two
// moments counts neither the opening of kept connections nor their end.
func client(arguments []string) {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	network := flags.String("network", "tcp", "tcp or udp")
	target := flags.String("target", "", "address of the proxy")
	connections := flags.Int("connections", 1, "connections at once")
	count := flags.Int64("count", 1, "requests to measure")
	warmUp := flags.Int64("warm-up", 0, "requests before the measurement")
	size := flags.Int("size", 1024, "bytes of one reply's body")
	reconnect := flags.Bool("reconnect", false, "open a connection for every request")
	limit := flags.Duration("limit", time.Minute, "time limit of the warm-up and of the measurement, each")
	anywhere := flags.Bool("anywhere", false, "the target need not be loopback, in a network namespace of our own")
	_ = flags.Parse(arguments)
	mustBeLoopback(*target, *anywhere)
	if *network != "tcp" && *network != "udp" || *network == "udp" && (*size < 8 || *size > largestDatagram) {
		fail("tcp, or udp with 8 to %d bytes", largestDatagram)
	}
	if *connections < 1 || *connections > mostConnections || *count < 1 || *count > mostRequests {
		fail("at most %d connections and %d requests, at least one of each", mostConnections, mostRequests)
	}
	endAfter(2**limit + 6*grace)
	r := &run{target: *target, connections: *connections, size: *size, reconnect: *reconnect, limit: *limit}
	measure := r.streams()
	if *network == "udp" {
		measure = r.datagrams()
	}
	warm := measure(*warmUp)
	fmt.Println("ready")
	orders := bufio.NewReader(os.Stdin)
	if _, err := orders.ReadString('\n'); err != nil {
		return
	}
	outcome := measure(*count)
	outcome.Failed += warm.Failed
	if warm.FirstError != "" {
		outcome.FirstError = warm.FirstError
	}
	_ = json.NewEncoder(os.Stdout).Encode(outcome)
	_, _ = io.Copy(io.Discard, orders)
}

func request(size int) []byte {
	start := fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: benchmark\r\nPadding: ", size)
	return []byte(start + strings.Repeat("p", requestSize-len(start)-4) + "\r\n\r\n")
}

// streams opens connections when they are needed. What it returns shares so many requests among them: each makes at
// least one, so that after a warm-up every kept connection is open.
func (r *run) streams() func(int64) result {
	r.request, r.head = request(r.size), []byte(replyHead(r.size))
	workers := make([]*worker, r.connections)
	for i := range workers {
		workers[i] = &worker{run: r, buffer: make([]byte, max(4096, min(chunkSize, r.size)))}
	}
	return func(count int64) result { return r.share(count, workers) }
}

func (r *run) share(count int64, workers []*worker) result {
	var tickets atomic.Int64
	tickets.Store(count)
	var group sync.WaitGroup
	start := time.Now()
	end := start.Add(r.limit)
	for _, w := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			w.work(&tickets, end)
		}()
	}
	group.Wait()
	took := time.Since(start)
	tallies := make([]*tally, len(workers))
	for i, w := range workers {
		tallies[i] = &w.tally
	}
	return summary(tallies, took)
}

func summary(tallies []*tally, took time.Duration) result {
	var all []time.Duration
	r := result{Seconds: took.Seconds()}
	for _, t := range tallies {
		all = append(all, t.times...)
		r.Failed += t.failed
		r.Bytes += t.bytes
		if r.FirstError == "" && t.firstError != nil {
			r.FirstError = t.firstError.Error()
		}
	}
	slices.Sort(all)
	r.Requests = int64(len(all))
	r.P50, r.P99 = percentile(all, 50), percentile(all, 99)
	return r
}

// percentile is the nearest rank of sorted values, in microseconds.
func percentile(sorted []time.Duration, rank int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	index := max(0, (len(sorted)*rank+99)/100-1)
	return float64(sorted[index].Nanoseconds()) / 1000
}

// A tally is what one connection has to show for itself.
type tally struct {
	times      []time.Duration
	bytes      int64
	failed     int64
	firstError error
}

func (t *tally) reset() {
	*t = tally{times: t.times[:0]}
}

func (t *tally) miss(err error) {
	t.failed++
	if t.firstError == nil {
		t.firstError = err
	}
}

type worker struct {
	tally
	run    *run
	conn   net.Conn
	buffer []byte
}

func (w *worker) work(tickets *atomic.Int64, end time.Time) {
	w.reset()
	if w.conn != nil {
		_ = w.conn.SetDeadline(end.Add(grace))
	}
	for first := true; time.Now().Before(end); first = false {
		if tickets.Add(-1) < 0 && !first {
			return
		}
		start := time.Now()
		if err := w.once(end.Add(grace)); err != nil {
			w.miss(err)
			w.close()
			continue
		}
		w.times = append(w.times, time.Since(start))
	}
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

func (w *worker) once(deadline time.Time) error {
	if w.conn == nil {
		conn, err := net.DialTimeout("tcp", w.run.target, grace)
		if err != nil {
			return err
		}
		w.conn = conn
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := w.conn.Write(w.run.request); err != nil {
		return err
	}
	if err := w.readReply(); err != nil {
		return err
	}
	if w.run.reconnect {
		w.close()
	}
	return nil
}

func (w *worker) readReply() error {
	head := w.run.head
	got, err := io.ReadAtLeast(w.conn, w.buffer, len(head))
	if err != nil {
		return fmt.Errorf("reply cut after %d bytes: %w", got, err)
	}
	if !bytes.HasPrefix(w.buffer[:got], head) {
		return fmt.Errorf("reply begins with %q", w.buffer[:min(got, len(head))])
	}
	want := len(head) + w.run.size
	for got < want {
		read, err := w.conn.Read(w.buffer)
		got += read
		if err != nil {
			return fmt.Errorf("reply cut after %d of %d bytes: %w", got, want, err)
		}
	}
	if got > want {
		return errors.New("reply is longer than announced")
	}
	w.bytes += int64(got)
	return nil
}
