module userproxy.io/benchmarks/load

go 1.22
