module userproxy.io/benchmarks/goproxy

go 1.22
