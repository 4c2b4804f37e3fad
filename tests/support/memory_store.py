"""A prefix store without a disk: slow, damaged or broken as a test wants it."""

from dataclasses import replace

from stepahead.prefix_store.record import Record


class MemoryReading:
    def __init__(self, records, delay):
        self._records = records
        self._delay = delay

    @property
    def is_done(self):
        self._delay -= 1
        return self._delay < 0

    @property
    def records(self):
        assert self._delay < 0, "not read yet"
        return self._records


class MemoryStore:
    """See PrefixStore. delay: how often a reading says that it is not done; broken: methods that raise."""

    def __init__(self, delay=0):
        self.written = {}
        self.readings = []  # keys
        self.delay = delay
        self.takes_writes = True
        self.damaged = set()  # keys
        self.broken = set()  # names of methods

    def header(self, key):
        self._check("header")
        record = self.written.get(key)
        return None if record is None else record.header

    def snapshots(self, parent):
        self._check("snapshots")
        headers = [record.header for record in self.written.values()]
        return [header for header in headers if header.parent == parent and header.kind == "snapshot"]

    def read(self, keys):
        self._check("read")
        self.readings.append(list(keys))
        is_whole = all(key in self.written and key not in self.damaged for key in keys)
        return MemoryReading(tuple(self.written[key] for key in keys) if is_whole else None, self.delay)

    def write(self, records):
        self._check("write")
        if self.takes_writes:
            for record in records:
                assert record.header.key not in self.written, "written twice"
                assert record.header.nbytes == sum(array.nbytes for array in record.arrays.values())
                self.written[record.header.key] = record
        return self.takes_writes

    def copy(self):
        """As another process finds it."""
        other = MemoryStore(self.delay)
        other.written = dict(self.written)
        return other

    def close(self):
        self._check("close")

    def change(self, kind, **changes):
        """Put others in the place of all records of a kind: of their headers' members, or `arrays` by a function."""
        for key, record in list(self.written.items()):
            if record.header.kind == kind:
                rest = dict(changes)
                arrays = rest.pop("arrays", dict)(record.arrays)
                self.written[key] = Record(replace(record.header, **rest), arrays)

    def _check(self, name):
        if name in self.broken:
            raise OSError(f"{name} is broken")
