"""A capture as a pcapng file, with the packets that its bytes could have travelled in."""

from userproxy.admin.pcapng.recording import Recording

__all__ = ["Recording"]
