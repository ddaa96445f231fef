"""The store: cases ready to train on and native references to score against, packed and content-addressed."""

from ctan.store.pointer import StorePointer
from ctan.store.reader import Store, open_store

__all__ = ["Store", "StorePointer", "open_store"]
