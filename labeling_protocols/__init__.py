"""Protocols, cases, reads, agreement and truth: the part of Overread that knows no network and no neural one."""
