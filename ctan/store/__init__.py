"""The store: cases ready to train on and native references to score against, packed and content-addressed."""

from ctan.store.build import build_again, preprocess
from ctan.store.pointer import StorePointer
from ctan.store.reader import Store, StoredCase, open_store

__all__ = ["Store", "StorePointer", "StoredCase", "build_again", "open_store", "preprocess"]
