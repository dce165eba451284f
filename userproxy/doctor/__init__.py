"""What ``userproxy doctor`` looks at: everything on a node that keeps a proxy from serving, or makes it serve badly.

=============== ======================================================================================================
findings        what a check finds: ok, warn or fail, and what to do
privileges      capabilities, and the limit of open files
drivers         which portal drivers work here; iptables' two variants; the program nft
kernel          what is asked of the kernel beside rules: lists of sockets, connection tracking
network         sysctls, links and addresses
others          who else serves this node: other proxies' rules, another userproxy, programs on our ports
api             the API server: whether it can be reached, what it permits, its clock, our Node
checks          the list of all checks, and how they are run
=============== ======================================================================================================

Every check only reads, and leaves no trace.
"""
