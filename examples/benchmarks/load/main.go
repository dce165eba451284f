// Load is both ends of the benchmark: "load backend" serves TCP and "load echo" UDP, "load client" asks through a
// proxy and counts. All refuse every address outside 127.0.0.0/8, unless they are told that they are in a network
// namespace of the benchmark's own, and end by themselves after a time limit.
package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

const longestLife = 10 * time.Minute

func main() {
	if len(os.Args) < 2 {
		fail("usage: load backend|echo|client FLAGS")
	}
	switch os.Args[1] {
	case "backend":
		backend(os.Args[2:])
	case "echo":
		echo(os.Args[2:])
	case "client":
		client(os.Args[2:])
	default:
		fail("%q is none of backend, echo and client", os.Args[1])
	}
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "load: "+format+"\n", values...)
	os.Exit(2)
}

func mustBeLoopback(address string, anywhere bool) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		fail("%v", err)
	}
	if ip := net.ParseIP(host); !anywhere && (ip == nil || !ip.IsLoopback()) {
		fail("%s is not a loopback address", address)
	}
}

func endAfter(limit time.Duration) {
	time.AfterFunc(min(limit, longestLife), func() { fail("stopped after its time limit") })
}
