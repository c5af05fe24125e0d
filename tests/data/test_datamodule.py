"""Batches of latents: the same images in the same order, however many processes and interruptions."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from asyrp_lit.data import workers
from asyrp_lit.data.datamodule import LatentBatch, LatentsDataModule
from asyrp_lit.data.latent_loader import JointBatchSampler, LatentDataset, ResumableLoader
from asyrp_lit.data.latents import LatentStore, StoreKey, from_uint8


def make_store(root, num_images, complete=True, **changes):
    fields = {"image_size": 4, "num_steps": 3, "t_0": 999, "pred_x0_steps": (999,)} | changes
    key = StoreKey("tiny", "ab12", f"{num_images} images", "cd34", **fields)
    store = LatentStore.create(root, key, [f"{i}" for i in range(num_images)], shard_size=4, num_labels=1)
    for k in range(store.num_shards if complete else 1):
        indices = store.shard_indices(k)
        tensors = {"x_0": torch.full((len(indices), 3, 4, 4), k, dtype=torch.uint8)}
        tensors["x_T"] = torch.tensor(indices).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
        tensors["labels"] = torch.tensor(indices)[:, None]
        if key.pred_x0_steps:
            tensors["pred_x0"] = torch.full((len(indices), 1, 3, 4, 4), 0.5, dtype=torch.float16)
        store.write_shard(k, tensors)
    return store


def make_data(root, batch_size, rank=None, world_size=1, num_train=11, num_val=7, **options):
    """A set-up data module; with a rank, attached to a trainer's stand-in."""
    folders = [make_store(root, count).folder for count in (num_train, num_val)]
    data = LatentsDataModule(*folders, batch_size, **options)
    data.prepare_data()
    if rank is not None:
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
    data.setup("fit")
    return data


def read_epoch(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return [batch.index.tolist() for batch in loader]


def test_a_batch_holds_what_the_store_does(tmp_path):
    data = make_data(tmp_path, batch_size=3)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, LatentBatch)
    for row, index in enumerate(batch.index.tolist()):
        item = data.stores["train"][index]
        assert torch.equal(batch.x_0[row], from_uint8(item["x_0"]))
        assert torch.equal(batch.x_T[row], item["x_T"])
        assert torch.equal(batch.labels[row], item["labels"])
        assert torch.equal(batch.pred_x0[row], item["pred_x0"].float())
    assert batch.index.dtype == torch.int64
    assert batch.is_real.all()


def test_a_store_without_p_t_gives_none(tmp_path):
    store = make_store(tmp_path, 5, pred_x0_steps=())
    assert LatentDataset(store)[[0, 4]].pred_x0 is None


def test_the_order_depends_on_seed_and_epoch_only(tmp_path):
    loaders = [make_data(tmp_path, 3, seed=seed).train_dataloader() for seed in (0, 0, 1)]
    epochs = [read_epoch(loader, epoch) for loader in loaders for epoch in (0, 1)]
    assert epochs[:2] == epochs[2:4]
    assert len({str(epoch) for epoch in epochs}) == 4


def test_unshuffled_training_is_in_the_order_of_the_store(tmp_path):
    loader = make_data(tmp_path, 4, shuffle=False).train_dataloader()
    assert read_epoch(loader, 5) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]


@pytest.mark.parametrize("batch_size", [4, 12, 24])
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_batches_are_the_joint_batches(tmp_path, batch_size, world_size):
    joint = read_epoch(make_data(tmp_path, batch_size).train_dataloader(), 3)
    parts = [
        read_epoch(make_data(tmp_path, batch_size // world_size, rank, world_size).train_dataloader(), 3)
        for rank in range(world_size)
    ]
    for number, batch in enumerate(joint):
        assert [part[number] for part in parts] == [batch[rank::world_size] for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(joint)}


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 30])
def test_training_drops_no_image_and_fills_the_last_batch(tmp_path, batch_size):
    batches = read_epoch(make_data(tmp_path, batch_size).train_dataloader())
    flat = [index for batch in batches for index in batch]
    assert {len(batch) for batch in batches} == {batch_size}
    assert sorted(flat[:11]) == list(range(11))
    assert flat[11:] == (flat[:11] * 3)[: len(flat) - 11]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_validation_counts_every_image_once_on_any_number_of_ranks(tmp_path, world_size):
    loaders = [
        make_data(tmp_path, 9, rank, world_size, val_batch_size=2).val_dataloader() for rank in range(world_size)
    ]
    batches = [list(loader) for loader in loaders]
    real = [index for rank in batches for batch in rank for index in batch.index[batch.is_real].tolist()]
    assert sorted(real) == list(range(7))
    assert len({tuple(len(batch.index) for batch in rank) for rank in batches}) == 1


def test_one_process_validates_without_padding(tmp_path):
    assert read_epoch(make_data(tmp_path, 4).val_dataloader()) == [[0, 1, 2, 3], [4, 5, 6]]


def test_workers_change_nothing(tmp_path):
    alone, helped = (make_data(tmp_path, 3, num_workers=count).train_dataloader() for count in (0, 2))
    assert [read_epoch(helped, epoch) for epoch in (0, 1)] == [read_epoch(alone, epoch) for epoch in (0, 1)]


def test_batches_have_as_many_bytes_as_their_room_is_made_for(tmp_path):
    batch = next(iter(make_data(tmp_path, 3).train_dataloader()))
    tensors = [batch.x_0, batch.x_T, batch.labels, batch.pred_x0]
    dataset = LatentDataset(make_store(tmp_path, 11))
    assert sum(tensor.nbytes for tensor in tensors) == 3 * dataset.item_bytes


def test_without_shared_memory_training_reads_in_its_own_process(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    loader = make_data(tmp_path, 3, num_workers=2).train_dataloader()
    assert loader.num_workers == 0
    assert len(read_epoch(loader)) == 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loaded_state_goes_on_at_the_next_batch(tmp_path, num_workers):
    loader, fresh = (make_data(tmp_path, 2, num_workers=num_workers).train_dataloader() for _ in range(2))
    whole = read_epoch(loader, 4)
    reading = iter(loader)
    served = [next(reading).index.tolist() for _ in range(2)]
    fresh.load_state_dict(loader.state_dict())
    assert served + [batch.index.tolist() for batch in fresh] == whole
    assert [batch.index.tolist() for batch in fresh] == whole


def test_a_state_of_other_batches_is_refused_within_an_epoch_only(tmp_path):
    loader, other = (make_data(tmp_path, size).train_dataloader() for size in (2, 3))
    state = loader.state_dict()
    with pytest.raises(ValueError, match=r"stopped within an epoch of .*resume with the same data"):
        other.load_state_dict(state | {"batches": 1})
    other.load_state_dict(state | {"batches": len(loader)})
    assert len(read_epoch(other, 1)) == len(other)


class Recorder(LightningModule):
    """Keeps the indices that it sees; stops at a given batch as a killed run would."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        self.stop_after = stop_after
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, batch.index.tolist()))
        self.optimizers().step()

    def on_train_batch_start(self, batch, batch_idx):
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run_trainer(root, folder, stop_after=None, resume=None, **options):
    module = Recorder(stop_after)
    saver = ModelCheckpoint(folder, filename="last", every_n_train_steps=1, enable_version_counter=False)
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=[saver], enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    data = make_data(root, 3, **options)
    with suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(module, data, ckpt_path=resume)
    return module.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("stop_after", "num_workers"), [(1, 0), (3, 0), (4, 0), (6, 0), (8, 0), (6, 1)])
def test_the_trainer_resumes_at_the_batch_where_it_was_stopped(tmp_path, stop_after, num_workers):
    whole = run_trainer(tmp_path, tmp_path / "whole")
    stopped = run_trainer(tmp_path, tmp_path / "stopped", stop_after, num_workers=num_workers)
    resumed = run_trainer(
        tmp_path, tmp_path / "stopped", resume=tmp_path / "stopped" / "last.ckpt", num_workers=num_workers
    )
    assert len(whole) == 12
    assert stopped + resumed == whole


def test_lightning_leaves_the_sampler_in_its_place(tmp_path):
    loader = make_data(tmp_path, 3).train_dataloader()
    assert isinstance(loader, ResumableLoader)
    assert isinstance(loader.sampler, JointBatchSampler)
    assert isinstance(loader.sampler, torch.utils.data.DistributedSampler)


def test_an_incomplete_store_is_refused_before_training(tmp_path):
    whole, part = make_store(tmp_path, 8), make_store(tmp_path, 7, complete=False)
    data = LatentsDataModule(whole.folder, part.folder, 2)
    with pytest.raises(FileNotFoundError, match=r"7_images.* is not complete: rerun the command that made it"):
        data.prepare_data()
    assert data.stores == {}


def test_stores_that_do_not_belong_together_are_refused(tmp_path):
    data = LatentsDataModule(
        make_store(tmp_path, 8).folder, make_store(tmp_path, 7, t_0=500, pred_x0_steps=()).folder, 2
    )
    with pytest.raises(ValueError, match=r"must have one t_0, got 999 in .* and 500 in"):
        data.setup("fit")


def test_a_batch_size_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be at least 1"):
        LatentsDataModule(tmp_path, tmp_path, batch_size=1, val_batch_size=0)
