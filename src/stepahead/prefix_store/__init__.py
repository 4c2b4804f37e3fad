"""Prefixes on disk: records that outlive the process, found by tokens, checked before a byte of them is believed.

A leaf room: it knows files, keys and checksums, and neither engines, backends nor what a record's arrays mean.
"""
