"""Latents that are there already: a store in place of the images that it was made of."""

from asyrp_lit.data.latents import LatentStore, from_uint8
from asyrp_lit.data.source import ImageItem


class StoredLatents:
    """The images of a complete store as a source; meets ``ImageSource``.

    Args:
        store: local or remote.

    Raises:
        ValueError: shards are missing.
    """

    def __init__(self, store: LatentStore) -> None:
        if missing := store.missing_shards(verify=store.verify):
            raise ValueError(
                f"{store.place} lacks {len(missing)} of {store.num_shards} shards: rerun the command that made it"
            )
        self.store = store
        self.name = store.key.source
        self.size = store.key.image_size
        self.keys = store.item_keys

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> ImageItem:
        item = self.store[index]
        return ImageItem(from_uint8(item["x_0"]), item["labels"])

    def fingerprint(self) -> str:
        """That of the images that the store was made of."""
        return self.store.key.source_fingerprint
