"""What happens while the blocks of a sample are stored."""

from contextlib import contextmanager

import pytest

from graphcnf.sampling.blocks import Blocks


@contextmanager
def at_block(number, action, before=False):
    """Let something happen after, or before, the block of this number is stored."""
    put, count = Blocks.put, []

    def counted(self, block):
        count.append(self)
        if before and len(count) == number:
            action()
        put(self, block)
        if not before and len(count) == number:
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "put", counted)
        yield


def interrupt():
    raise KeyboardInterrupt
