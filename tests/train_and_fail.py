"""``python train.py`` of which a process fails, by the variable WHERE: ``calibration``, ``first`` or ``second``.

Lightning starts this file again for the second process, which leaves its number in ``NOTES/child``.
"""

import os
import signal
import time
from importlib import import_module
from pathlib import Path

from asyrp_lit.training.state import KeepState

CHILD = Path(os.environ["NOTES"]) / "child"
IS_CHILD = "LOCAL_RANK" in os.environ
WHERE = os.environ["WHERE"]
save = KeepState._save


def stop_in_calibration(*args):
    if IS_CHILD:
        time.sleep(100)  # as in a collective
    signal.raise_signal(signal.SIGTERM)


def fill_the_disk(self, trainer):
    if trainer.global_rank == ["first", "second"].index(WHERE):
        raise OSError(28, "No space left on device")
    save(self, trainer)


if IS_CHILD:
    CHILD.write_text(str(os.getpid()))
if WHERE == "calibration":
    import_module("asyrp_lit.stages")
    import_module("asyrp_lit.stages.train").calibrate = stop_in_calibration
else:
    KeepState._save = fill_the_disk
TRAIN = Path(__file__).parents[1] / "train.py"
exec(compile(TRAIN.read_text(), TRAIN, "exec"))  # runpy would have the second process run train.py itself
