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
	mostConnections = 1024
	mostRequests    = 10_000_000
	grace           = 5 * time.Second
)

// A run is one way of asking: so many connections, so many requests among them, each for size bytes.
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
	target := flags.String("target", "", "address of the proxy")
	connections := flags.Int("connections", 1, "connections at once")
	count := flags.Int64("count", 1, "requests to measure")
	warmUp := flags.Int64("warm-up", 0, "requests before the measurement")
	size := flags.Int("size", 1024, "bytes of one reply's body")
	reconnect := flags.Bool("reconnect", false, "open a connection for every request")
	limit := flags.Duration("limit", time.Minute, "time limit of the warm-up and of the measurement, each")
	_ = flags.Parse(arguments)
	mustBeLoopback(*target)
	if *connections < 1 || *connections > mostConnections || *count < 1 || *count > mostRequests {
		fail("at most %d connections and %d requests, at least one of each", mostConnections, mostRequests)
	}
	endAfter(2**limit + 6*grace)
	r := &run{target: *target, connections: *connections, size: *size, reconnect: *reconnect, limit: *limit}
	r.request, r.head = request(*size), []byte(replyHead(*size))
	workers := make([]*worker, r.connections)
	for i := range workers {
		workers[i] = &worker{run: r, buffer: make([]byte, max(4096, min(chunkSize, *size)))}
	}
	warm := measure(r, workers, *warmUp)
	fmt.Println("ready")
	orders := bufio.NewReader(os.Stdin)
	if _, err := orders.ReadString('\n'); err != nil {
		return
	}
	outcome := measure(r, workers, *count)
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

// measure shares count requests among the workers. Each makes at least one, so that after a warm-up every kept
// connection is open.
func measure(r *run, workers []*worker, count int64) result {
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
	return summary(workers, time.Since(start))
}

func summary(workers []*worker, took time.Duration) result {
	var all []time.Duration
	r := result{Seconds: took.Seconds()}
	for _, w := range workers {
		all = append(all, w.times...)
		r.Failed += w.failed
		r.Bytes += w.bytes
		if r.FirstError == "" && w.firstError != nil {
			r.FirstError = w.firstError.Error()
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

type worker struct {
	run        *run
	conn       net.Conn
	buffer     []byte
	times      []time.Duration
	bytes      int64
	failed     int64
	firstError error
}

func (w *worker) work(tickets *atomic.Int64, end time.Time) {
	w.times, w.bytes, w.failed, w.firstError = w.times[:0], 0, 0, nil
	if w.conn != nil {
		_ = w.conn.SetDeadline(end.Add(grace))
	}
	for first := true; time.Now().Before(end); first = false {
		if tickets.Add(-1) < 0 && !first {
			return
		}
		start := time.Now()
		if err := w.once(end.Add(grace)); err != nil {
			w.fail(err)
			continue
		}
		w.times = append(w.times, time.Since(start))
	}
}

func (w *worker) fail(err error) {
	w.failed++
	if w.firstError == nil {
		w.firstError = err
	}
	w.close()
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
