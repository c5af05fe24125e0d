"""A store of 30,000 images read for several epochs: seconds until the first batch, memory on the way, shards opened.

Then a remote one, every shard DOWNLOAD s on the way, batches used for TRAINING s: seconds an epoch by read_workers.

    python benchmarks/large_store.py [images] [folder]

The tensors are tiny; the number of shards, the manifest and the code are those of a real store. Memory is that of the
process without the pages of mapped files, which the system takes back when it needs them.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.latents import LatentStore, StoreKey
from asyrp_lit.data.remote import ShardCache, open_store

SHARD_SIZE = 32
BATCH_SIZE = 16
EPOCHS = 6
#: How often memory is looked at in an epoch.
LOOKS = 5
#: Images of the remote store, and seconds that the download of a shard and the training on a batch take.
REMOTE_IMAGES, DOWNLOAD, TRAINING = 1600, 0.2, 0.2


def read_memory() -> float:
    """Private memory of this process in MiB, from Linux."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1024


def fill(folder: Path, name: str, num_images: int) -> LatentStore:
    """A store of random tensors; shards that are there stay."""
    key = StoreKey("simulated", "ab12", name, "cd34", image_size=8, num_steps=40, t_0=999, pred_x0_steps=(999,))
    store = LatentStore.create(folder, key, [f"{i:08d}.png" for i in range(num_images)], SHARD_SIZE)
    for number in store.missing_shards(verify=False):
        count = len(store.shard_indices(number))
        x = torch.randn(count, 3, 8, 8)
        labels = torch.empty(count, 0, dtype=torch.int64)
        tensors = {"x_0": torch.zeros(count, 3, 8, 8, dtype=torch.uint8), "x_T": x, "labels": labels}
        store.write_shard(number, tensors | {"pred_x0": x[:, None].half()})
    return store


def main() -> None:
    """Fill, read, print."""
    num_images = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    stores = [fill(folder, name, count) for name, count in (("train", num_images), ("val", SHARD_SIZE))]
    print(f"{num_images} images in {stores[0].num_shards} shards, {stores[0].num_bytes / 2**20:.0f} MiB, in {folder}")
    start, before = time.perf_counter(), read_memory()
    data = LatentsDataModule(*(store.folder for store in stores), BATCH_SIZE)
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        looks, seen = [], 0
        for number, batch in enumerate(loader):
            if epoch == number == 0:
                print(f"first batch after {time.perf_counter() - start:.2f} s")
            seen += len(batch.index)
            if number % max(1, len(loader) // LOOKS) == 0:
                looks.append(f"{read_memory() - before:.0f}")
        opened = data.stores["train"]._reader.cache_info().misses
        print(f"epoch {epoch}: {seen} images, memory +{', +'.join(looks)} MiB, {opened} shards opened so far")
    read_remote(fill(folder, "remote", REMOTE_IMAGES).folder, folder)


def read_remote(place: Path, caches: Path) -> None:
    """An epoch of a store that is far away, with and without a process that reads ahead."""
    get = ShardCache._download

    def download_slowly(*args: Any) -> None:
        time.sleep(DOWNLOAD)
        get(*args)

    ShardCache._download = download_slowly
    for workers in (0, 1, 2):
        store = open_store(f"file://{place}", tempfile.mkdtemp(dir=caches), 2**30)
        data = LatentsDataModule(store, store, BATCH_SIZE, num_workers=workers)
        data.setup("fit")
        start = time.perf_counter()
        for _ in data.train_dataloader():
            time.sleep(TRAINING)
        seconds, least = time.perf_counter() - start, TRAINING * REMOTE_IMAGES / BATCH_SIZE
        print(f"remote, {workers} read_workers: {seconds:.1f} s, of which {least:.0f} s are training", flush=True)


if __name__ == "__main__":
    main()
