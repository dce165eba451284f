"""The ``nftables`` driver: the elements (pure: ``elements``, ``ledger``), the table (pure: ``layout``, ``expressions``,
``changes``, ``messages``) and the kernel that has it.
"""
