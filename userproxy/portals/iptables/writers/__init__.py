"""What carries out a change of tables: ``restore`` any of them, by iptables-restore.

The others do small ones, and faster: ``libiptc`` those of legacy tables, ``handles`` those of iptables-nft's.
"""
