"""Model files from a hub: found, downloaded, verified, joined with their heads, and remembered by a name.

The registry of names needs no library; everything else needs the extra `hub`, and imports it when it is used.
"""
