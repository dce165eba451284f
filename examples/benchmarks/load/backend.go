package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"strconv"
	"strings"
)

const (
	largestReply = 1 << 30
	chunkSize    = 256 << 10
)

// backend answers "GET /N" with N bytes, on every address it is given, over as many requests as a client sends.
func backend(arguments []string) {
	flags := flag.NewFlagSet("backend", flag.ExitOnError)
	addresses := flags.String("listen", "127.0.0.1:0", "addresses to serve on, separated by commas")
	anywhere := flags.Bool("anywhere", false, "addresses need not be loopback, in a network namespace of our own")
	_ = flags.Parse(arguments)
	endAfter(longestLife)
	for _, address := range strings.Split(*addresses, ",") {
		mustBeLoopback(address, *anywhere)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			fail("%v", err)
		}
		go accept(listener)
	}
	select {}
}

func accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fail("%v", err)
		}
		go serve(conn)
	}
}

func serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	body := make([]byte, chunkSize)
	for {
		size, err := readRequest(reader)
		if err != nil {
			return
		}
		if err := writeReply(conn, body, size); err != nil {
			return
		}
	}
}

func readRequest(reader *bufio.Reader) (int, error) {
	size := -1
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			return size, nil
		}
		if size >= 0 {
			continue
		}
		if size, err = requestedSize(string(line)); err != nil {
			return 0, err
		}
	}
}

func requestedSize(line string) (int, error) {
	words := strings.Fields(line)
	if len(words) != 3 || words[0] != "GET" {
		return 0, fmt.Errorf("request line %q", line)
	}
	size, err := strconv.Atoi(strings.TrimPrefix(words[1], "/"))
	if err != nil || size < 0 || size > largestReply {
		return 0, fmt.Errorf("size %q", words[1])
	}
	return size, nil
}

func replyHead(size int) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
}

// writeReply sends the head together with the first bytes of the body, so that a small reply is one segment.
func writeReply(conn net.Conn, buffer []byte, size int) error {
	used := copy(buffer, replyHead(size))
	first := min(size, len(buffer)-used)
	if _, err := conn.Write(buffer[:used+first]); err != nil {
		return err
	}
	for rest := size - first; rest > 0; {
		written, err := conn.Write(buffer[:min(rest, len(buffer))])
		if err != nil {
			return err
		}
		rest -= written
	}
	return nil
}
