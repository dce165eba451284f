package main

import (
	"errors"
	"log"
	"net"
	"os"
	"sync"
	"time"
)

// The original cuts longer datagrams.
const datagramSize = 4096

// A clientCache has the socket towards the backend of each client, by the client's address.
type clientCache struct {
	sync.Mutex
	sockets map[string]net.Conn
}

// serveUDP is the original's UDP proxy: one loop that reads from clients, looks each up under a lock, dials for a new
// one, and writes; and one goroutine per client for the replies. Either direction pushes the time limit forward.
func serveUDP(listen string, balancer *roundRobin, idle time.Duration) error {
	socket, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	cache := &clientCache{sockets: map[string]net.Conn{}}
	var buffer [datagramSize]byte
	for {
		size, client, err := socket.ReadFrom(buffer[:])
		if err != nil {
			return err
		}
		backend, err := cache.backendOf(client, socket, balancer, idle)
		if err != nil {
			log.Print(err)
			continue
		}
		if _, err := backend.Write(buffer[:size]); err != nil {
			log.Print(err)
			continue
		}
		if err := backend.SetDeadline(time.Now().Add(idle)); err != nil {
			log.Print(err)
		}
	}
}

func (c *clientCache) backendOf(
	client net.Addr, socket net.PacketConn, balancer *roundRobin, idle time.Duration,
) (net.Conn, error) {
	c.Lock()
	defer c.Unlock()
	if backend, found := c.sockets[client.String()]; found {
		return backend, nil
	}
	backend, err := dial("udp", balancer)
	if err != nil {
		return nil, err
	}
	if err := backend.SetDeadline(time.Now().Add(idle)); err != nil {
		return nil, err
	}
	c.sockets[client.String()] = backend
	go func() {
		defer backend.Close()
		replies(backend, client, socket, idle)
		c.Lock()
		delete(c.sockets, client.String())
		c.Unlock()
	}()
	return backend, nil
}

// replies sends what the backend answers to its client, until the flow is idle.
func replies(backend net.Conn, client net.Addr, socket net.PacketConn, idle time.Duration) {
	var buffer [datagramSize]byte
	for {
		size, err := backend.Read(buffer[:])
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				log.Print(err)
			}
			return
		}
		if err := backend.SetDeadline(time.Now().Add(idle)); err != nil {
			log.Print(err)
			return
		}
		if _, err := socket.WriteTo(buffer[:size], client); err != nil {
			log.Print(err)
			return
		}
	}
}
