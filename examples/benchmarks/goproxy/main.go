// Goproxy is a plain proxy with the structure of kube-proxy 1.25's userspace data path. TCP: one accept loop that
// chooses a backend and dials it in line, then one goroutine per connection that runs io.Copy in both directions.
// When either direction ends, both connections are closed, as the original does. UDP: see serveUDP.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Each try goes to the next backend, with the original's time limits.
var dialLimits = []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second}

type roundRobin struct {
	backends []string
	next     int
}

func (r *roundRobin) choose() string {
	backend := r.backends[r.next%len(r.backends)]
	r.next++
	return backend
}

func dial(network string, balancer *roundRobin) (net.Conn, error) {
	var last error
	for _, limit := range dialLimits {
		backend, err := net.DialTimeout(network, balancer.choose(), limit)
		if err == nil {
			return backend, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no backend answers: %w", last)
}

func relay(client, backend net.Conn) {
	var directions sync.WaitGroup
	directions.Add(2)
	go forward(&directions, backend, client)
	go forward(&directions, client, backend)
	directions.Wait()
}

func forward(done *sync.WaitGroup, to, from net.Conn) {
	defer done.Done()
	// The error is of no interest: whatever ends one direction ends the connection.
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

func serveTCP(listen string, balancer *roundRobin) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		backend, err := dial("tcp", balancer)
		if err != nil {
			log.Print(err)
			client.Close()
			continue
		}
		go relay(client, backend)
	}
}

func main() {
	network := flag.String("network", "tcp", "tcp or udp")
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on")
	backends := flag.String("backends", "", "addresses to dial, separated by commas")
	idle := flag.Duration("udp-timeout", 250*time.Millisecond, "how long a UDP flow may be idle")
	flag.Parse()
	balancer := &roundRobin{backends: strings.Split(*backends, ",")}
	log.Printf("serving %s on %s with GOMAXPROCS %d, %s", *network, *listen, runtime.GOMAXPROCS(0), runtime.Version())
	if *network == "udp" {
		log.Fatal(serveUDP(*listen, balancer, *idle))
	}
	log.Fatal(serveTCP(*listen, balancer))
}
