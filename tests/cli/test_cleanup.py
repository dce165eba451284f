"""What ``userproxy cleanup`` says, in a network of its own."""

import os
import shutil
import subprocess
import sys

import pytest

SCRIPT = """
mount -t tmpfs none /run
iptables -t nat -N KUBE-PORTALS-HOST
"$0" -m userproxy cleanup
"$0" -m userproxy cleanup
"""


def in_namespaces(script: str) -> "subprocess.CompletedProcess[str]":
    if os.geteuid() != 0 or not shutil.which("iptables"):
        pytest.skip("needs root and iptables: makes rules in a network namespace")
    command = ["unshare", "--net", "--mount", "sh", "-e", "-c", script, sys.executable]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_only_what_was_removed_is_said() -> None:
    done = in_namespaces(SCRIPT)
    removed, nothing = done.stdout.splitlines()
    assert removed.endswith(", table nat: removed the chain KUBE-PORTALS-HOST with 0 rules")
    assert nothing == "Nothing of userproxy was found."
    assert done.returncode == 0
    assert done.stderr == ""


BESIDE = """
mount -t tmpfs none /run
iptables -t nat -N KUBE-PORTALS-HOST
exec "$0" -c '
import subprocess, sys
from userproxy.model import IPFamily
from userproxy.portals.lease import Lease
owner = Lease(IPFamily.IPV4)
owner.take()
for flags in [], ["--force"]:
    print("exit", subprocess.run([sys.executable, "-m", "userproxy", "cleanup", *flags]).returncode, flush=True)
'
"""


def test_a_running_userproxy_keeps_its_rules_unless_they_are_taken_by_force() -> None:
    done = in_namespaces(BESIDE)
    refused, removed, forced = done.stdout.splitlines()
    assert (refused, forced) == ("exit 1", "exit 0")
    assert removed.endswith("removed the chain KUBE-PORTALS-HOST with 0 rules")
    (refusal,) = done.stderr.splitlines()
    assert refusal.startswith("Error: nothing was removed, because another userproxy keeps the IPv4 portals")


def test_without_the_right_to_read_rules_it_fails() -> None:
    done = in_namespaces('mount -t tmpfs none /run; exec setpriv --bounding-set=-net_admin "$0" -m userproxy cleanup')
    assert (done.returncode, done.stdout) == (1, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("Error: ")
    assert "CAP_NET_ADMIN" in sentence


WITHOUT_IPTABLES = """
mount -t tmpfs none /run
nft add table ip userproxy
{more}
for place in /usr/sbin /sbin /usr/local/sbin; do mount -t tmpfs none $place; done
exec "$0" -m userproxy cleanup
"""


def test_without_iptables_the_package_is_named_and_the_rest_cleaned() -> None:
    done = in_namespaces(WITHOUT_IPTABLES.format(more=""))
    removed, lacking = done.stdout.splitlines()
    assert removed == "nftables: removed the table ip userproxy"
    assert lacking.startswith("iptables is not installed (package iptables)")
    assert (done.returncode, done.stderr) == (0, "")


def test_rules_that_only_missing_programs_can_remove_are_a_failure() -> None:
    done = in_namespaces(WITHOUT_IPTABLES.format(more="iptables-nft -t nat -N KUBE-PORTALS-HOST"))
    assert done.stdout.splitlines() == ["nftables: removed the table ip userproxy"]
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("Error: iptables is not installed (package iptables)")
    assert sentence.endswith("cannot be removed without it: KUBE-PORTALS-HOST")
    assert done.returncode == 1
