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


def test_only_what_was_removed_is_said() -> None:
    if os.geteuid() != 0 or not shutil.which("iptables"):
        pytest.skip("needs root and iptables: makes rules in a network namespace")
    command = ["unshare", "--net", "--mount", "sh", "-e", "-c", SCRIPT, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    removed, nothing = done.stdout.splitlines()
    assert removed.endswith(", table nat: removed the chain KUBE-PORTALS-HOST with 0 rules")
    assert nothing == "Nothing of userproxy was found."
    assert done.returncode == 0
    assert done.stderr == ""
